internal import Pages
public import System

/// What was asked of a userfaultfd or a pagemap.
public enum UFFDOperation: Hashable, Sendable {
  /// Making a descriptor.
  case create
  /// The handshake, with the features that were wanted but are not offered.
  case negotiate(missing: UserfaultFeatures)
  /// Taking over a descriptor that somebody sent.
  case adopt(descriptor: Int32)
  /// A second descriptor of the same userfaultfd.
  case duplicate
  case register(RegistrationModes)
  case unregister
  case read
  case copy
  case zero
  case mapCached
  case poison
  case writeProtect
  case wake
  /// Moving pages that stood at `source`.
  case move(source: HostAddress)
  /// Reading /proc/self/fdinfo of the descriptor.
  case status
  /// Opening the pagemap of a process.
  case openPagemap(processID: Int32)
  /// PAGEMAP_SCAN.
  case scanPagemap
}

/// An answer of the kernel that the protocol has no meaning for: which call, where, and the number.
///
/// A trivial value: throwing it allocates nothing.
public struct UFFDError: Error, Hashable, Sendable {
  /// The call.
  public let operation: UFFDOperation
  /// The range that it was for; nil when it is for no range.
  public let range: HostRange?
  /// The kernel's reason.
  public let errno: Errno

  /// `operation` on `range` failed with `errno`.
  public init(_ operation: UFFDOperation, range: HostRange? = nil, errno: Errno) {
    self.operation = operation
    self.range = range
    self.errno = errno
  }
}

extension UFFDError: CustomStringConvertible {
  /// One line: the call, the range, the reason, and for missing privileges what would give them.
  public var description: String {
    var text = "userfaultfd \(operation)"
    if let range {
      text +=
        " at 0x" + String(range.start.rawValue, radix: 16) + ", "
        + "\(range.byteCount.rawValue) bytes"
    }
    text += ": \(errno)"
    if operation == .create, errno == .notPermitted || errno == .accessDenied {
      text +=
        " — needs root, CAP_SYS_PTRACE, vm.unprivileged_userfaultfd=1, or read and write access to"
        + " /dev/userfaultfd"
    }
    return text
  }
}
