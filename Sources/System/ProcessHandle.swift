internal import CLinux
internal import Glibc
public import Pages

/// A running process that cannot be mistaken for another one: a pidfd. Becomes readable (poll) when
/// the process has ended.
public struct ProcessHandle: ~Copyable, Sendable {
  /// Which process.
  public let identity: ProcessIdentity
  /// The pidfd, to poll for the end of the process.
  public let descriptor: OwnedDescriptor

  /// The process that has the pid now. Its identity is read after the pidfd is open, so both are
  /// of the same process. ESRCH when it is gone.
  public static func open(pid: Int32) throws(SystemError) -> ProcessHandle {
    let number = clinux_pidfd_open(pid, 0)
    guard number >= 0 else { throw SystemError("pidfd_open", "pid \(pid)") }
    let descriptor = OwnedDescriptor(adopting: number)
    let identity = try ProcessIdentity.of(pid: pid)
    // The pid could have been freed and used again between the two calls: then the first process
    // has ended, which signal 0 shows.
    guard clinux_pidfd_send_signal(number, 0) == 0 || Errno.current == .notPermitted else {
      throw SystemError("pidfd_send_signal", "pid \(pid)")
    }
    return ProcessHandle(identity: identity, descriptor: descriptor)
  }

  init(identity: ProcessIdentity, descriptor: consuming OwnedDescriptor) {
    self.identity = identity
    self.descriptor = descriptor
  }

  /// Sends a signal. ESRCH when the process has ended and was reaped.
  public borrowing func send(signal: Int32) throws(SystemError) {
    guard clinux_pidfd_send_signal(descriptor.rawValue, signal) == 0 else {
      throw SystemError("pidfd_send_signal", "\(identity), signal \(signal)")
    }
  }

  /// Ends the process at once: SIGKILL. One that has ended already is fine.
  public borrowing func kill() throws(SystemError) {
    do throws(SystemError) {
      try send(signal: SIGKILL)
    } catch {
      guard error.errno == .noSuchProcess else { throw error }
    }
  }

  /// Whether the process has ended (it may not be reaped yet). Does not wait.
  public borrowing func hasEnded() -> Bool {
    waitUntilEnded(deadline: Instant(nanoseconds: 0))
  }

  /// Waits until the process has ended: no thread of it runs any more. False when the deadline
  /// comes first.
  public borrowing func waitUntilEnded(deadline: Instant) -> Bool {
    while true {
      let left = deadline.nanoseconds(since: MonotonicClock.now())
      var entry = pollfd(fd: descriptor.rawValue, events: Int16(POLLIN), revents: 0)
      if unsafe poll(&entry, 1, Int32(clamping: (left + 999_999) / 1_000_000)) == 1 { return true }
      if left == 0 { return false }
    }
  }

  /// A duplicate of one of the process's descriptors. Needs the right to ptrace it.
  public borrowing func duplicate(
    descriptorNumber: Int32
  ) throws(SystemError) -> OwnedDescriptor {
    let number = clinux_pidfd_getfd(descriptor.rawValue, descriptorNumber, 0)
    guard number >= 0 else {
      throw SystemError("pidfd_getfd", "\(identity), descriptor \(descriptorNumber)")
    }
    return OwnedDescriptor(adopting: number)
  }
}
