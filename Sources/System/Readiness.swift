internal import CLinux
internal import Glibc
public import Pages

/// Waiting for several descriptors at once, where a ring would be too much: control loops.
public enum Readiness {
  /// Waits until one of the descriptors can be read (or has failed, or has ended), or the deadline
  /// passes; nil waits for ever. Tells for each descriptor whether it is ready; none after the
  /// deadline. Descriptors that another thread closes meanwhile are a bug of the caller.
  public static func wait(
    for descriptors: [Int32], until deadline: Instant? = nil
  ) throws(SystemError) -> [Bool] {
    var entries = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
    while true {
      let timeout = milliseconds(until: deadline)
      let count = unsafe poll(&entries, nfds_t(entries.count), timeout)
      if count > 0 { return entries.map { $0.revents != 0 } }
      if count == 0 {
        if let deadline, MonotonicClock.now() < deadline { continue }
        return entries.map { _ in false }
      }
      // EINTR: the deadline is absolute, so just wait again. ENOMEM and EFAULT are passed up.
      guard Errno.current == .interrupted else { throw SystemError("poll") }
    }
  }

  /// Rounded up, so that a wait does not end just before its deadline and spin.
  private static func milliseconds(until deadline: Instant?) -> Int32 {
    guard let deadline else { return -1 }
    let left = deadline.nanoseconds(since: MonotonicClock.now())
    if left == 0 { return 0 }
    return Int32(min(left / 1_000_000 + 1, 3_600_000))
  }
}
