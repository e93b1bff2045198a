/// What another process has mapped where, without a look at its pages: /proc/PID/maps.
public struct ProcessAddressSpace: Sendable {
  /// The mappings in the order of their addresses; page sizes and userfaultfd are not filled in.
  public let mappings: [ProcessMapping]

  /// The mappings of the process as they are now. Needs the right to ptrace it.
  public init(pid: Int32) throws(SystemError) {
    let bytes = try FileSystem.contents(
      ofSmallFile: "/proc/\(pid)/maps", maximumByteCount: Self.maximumTextByteCount)
    self.init(mappings: ProcessMapping.parse(String(decoding: bytes, as: UTF8.self)))
  }

  /// Those mappings.
  public init(mappings: [ProcessMapping]) { self.mappings = mappings }

  /// 65 530 mappings (vm.max_map_count) of some 100 bytes each.
  private static let maximumTextByteCount = 16 << 20

  /// How a range is mapped.
  public enum Coverage: Hashable, Sendable {
    /// All of it privately.
    case allPrivate
    /// All of it shared.
    case allShared
    /// Parts of it privately, parts shared.
    case mixed
    /// Something in it is not mapped; the first such address.
    case unmapped(at: UInt64)
  }

  /// How a range that is not empty is mapped.
  public func coverage(_ range: Range<UInt64>) -> Coverage {
    var reached = range.lowerBound
    var hasShared = false
    var hasPrivate = false
    for mapping in mappings where mapping.addresses.overlaps(reached..<range.upperBound) {
      guard mapping.addresses.lowerBound <= reached else { break }
      if mapping.isShared { hasShared = true } else { hasPrivate = true }
      reached = mapping.addresses.upperBound
      if reached >= range.upperBound { break }
    }
    guard reached >= range.upperBound else { return .unmapped(at: reached) }
    return hasShared && hasPrivate ? .mixed : hasShared ? .allShared : .allPrivate
  }
}
