internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// The use of a userfaultfd without its ownership: a number that several threads share.
///
/// Whoever shares it keeps the `UserfaultDescriptor` open until the last user is done; a number
/// that was closed may name another file. Every call is one system call, takes no lock of ours,
/// and allocates nothing.
@frozen
public struct UserfaultHandle: Hashable, Sendable {
  /// The descriptor's number.
  public let rawValue: Int32

  /// The descriptor of that number, which somebody else keeps open.
  @inlinable
  public init(borrowing rawValue: Int32) { self.rawValue = rawValue }
}

extension UserfaultHandle {
  /// Makes accesses to `range` faults of this descriptor. The range must be whole pages of one or
  /// more mappings. Answers what the kernel offers for it.
  public func register(
    _ range: HostRange, modes: RegistrationModes
  ) throws(UFFDError) -> RangeOperations {
    var argument = uffd_abi_register(
      range: range.argument, mode: modes.rawValue, ioctls: 0)
    let errno = control(uffd_request_register, &argument)
    guard errno == 0 else { throw error(.register(modes), range, errno) }
    return RangeOperations(rawValue: argument.ioctls)
  }

  /// Lets the kernel answer accesses to `range` by itself again, and wakes who waits there. A page
  /// that is still missing then **reads as zeros**: only for ranges that are complete.
  public func unregister(_ range: HostRange) throws(UFFDError) {
    var argument = range.argument
    let errno = control(uffd_request_unregister, &argument)
    guard errno == 0 else { throw error(.unregister, range, errno) }
  }

  /// Lets every thread that waits in `range` try again: it goes on where its page is there now, and
  /// faults once more where not.
  public func wake(_ range: HostRange) throws(UFFDError) {
    var argument = range.argument
    let errno = control(uffd_request_wake, &argument)
    guard errno == 0 else { throw error(.wake, range, errno) }
  }

  /// Reads the messages that wait, as many as fit, and answers how many: 0 when none does.
  ///
  /// Never waits: the descriptor is non-blocking, as poll(2) on it requires. POLLIN followed by no
  /// message is normal. Faults come before other events, whatever happened first.
  public func read(into buffer: inout UserfaultMessageBuffer) throws(UFFDError) -> Int {
    let memory = unsafe buffer.beginRead()
    // unsafe: the kernel writes at most the count of the memory that the buffer just gave us.
    let byteCount = unsafe Glibc.read(rawValue, memory.baseAddress, memory.count)
    guard byteCount >= 0 else {
      let errno = Errno.current
      if errno == .tryAgain { return 0 }
      throw UFFDError(.read, errno: errno)
    }
    buffer.endRead(byteCount: byteCount)
    return buffer.count
  }

  /// One ioctl(2): 0, or its errno.
  func control<Argument: BitwiseCopyable>(_ request: UInt, _ argument: inout Argument) -> Int32 {
    // unsafe: each request is called with the structure that its number is computed from, so the
    // kernel reads and writes inside the argument.
    unsafe ioctl(rawValue, request, &argument) < 0 ? Errno.current.rawValue : 0
  }

  func error(_ operation: UFFDOperation, _ range: HostRange, _ errno: Int32) -> UFFDError {
    UFFDError(operation, range: range, errno: Errno(rawValue: errno))
  }
}

extension HostRange {
  var argument: uffd_abi_range { uffd_abi_range(start: start.rawValue, len: byteCount.rawValue) }
}
