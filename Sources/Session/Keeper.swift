internal import Pages
internal import System

/// The descriptors that a process keeps for others, and when it may let go of them.
///
/// When the last duplicate of a userfaultfd is closed while pages are missing, the guest reads
/// zeros in their place. So whoever keeps one asks `reasonToStay` before it ends.
public struct DescriptorKeep: Sendable {
  /// A session keeps three; above any number of attaches that one session sees.
  public static let capacity = 32

  /// All that is kept, oldest first.
  public private(set) var descriptors: [KeptDescriptor] = []

  /// Keeps nothing.
  public init() {}

  /// Keeps one more. One of the same name takes the place of the earlier one, but for userfaultfds:
  /// of those a second duplicate is dropped, and another one is kept beside the first. False when
  /// there is no room: the caller's duplicate is then the only one of it here.
  public mutating func add(_ kept: KeptDescriptor) -> Bool {
    if DescriptorIdentity.isUserfault(kept.descriptor.rawValue) {
      let isKnown = userfaults.contains {
        DescriptorIdentity.isSameOpenFile($0.descriptor.rawValue, kept.descriptor.rawValue)
      }
      if isKnown { return true }
    } else if let earlier = descriptors.firstIndex(where: { $0.name == kept.name }) {
      descriptors[earlier] = kept
      return true
    }
    guard descriptors.count < Self.capacity else { return false }
    descriptors.append(kept)
    return true
  }

  /// Lets go of everything: no page is missing any more.
  public mutating func release() { descriptors = [] }

  /// The first of that name.
  public func first(named name: String) -> KeptDescriptor? {
    descriptors.first { $0.name == name }
  }

  private var userfaults: [KeptDescriptor] {
    descriptors.filter { DescriptorIdentity.isUserfault($0.descriptor.rawValue) }
  }

  /// Why this process must not end, as far as it can know; nil when it may: no userfaultfd is kept,
  /// its VMM has ended, or the VMM holds a duplicate itself. Costs a look at all the VMM's
  /// descriptors.
  public func reasonToStay() -> String? {
    let userfaults = userfaults
    guard !userfaults.isEmpty else { return nil }
    guard let vmm = first(named: KeptName.vmm) else {
      return "the VMM of a userfaultfd that is kept here is not known"
    }
    do throws(SystemError) {
      let process = try ProcessHandle.adopt(try vmm.descriptor.duplicate())
      guard !process.hasEnded() else { return nil }
      for userfault in userfaults {
        let number = try DescriptorIdentity.numberOfUserfault(
          userfault.descriptor, heldBy: process.identity.pid)
        if number == nil {
          return "the VMM (pid \(process.identity.pid)) keeps no duplicate of its userfaultfd: "
            + "if this process ended, the guest would read zeros"
        }
      }
      return nil
    } catch {
      // ESRCH: it has ended, and was reaped before we looked.
      if error.errno == .noSuchProcess { return nil }
      return "it cannot be seen whether the VMM keeps a duplicate of its userfaultfd (\(error))"
    }
  }
}
