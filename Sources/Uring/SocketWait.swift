// timespec belongs to whichever of these modules the importer meets first.
internal import CLiburing
internal import CLinux
internal import COpenSSL
internal import Glibc
internal import Pages
internal import System

/// What poll(2) found.
enum SocketReadiness {
  case ready
  case cancelled
  case timedOut
}

enum SocketWait {
  /// Waits until `descriptor` shows one of `events` or an error, `cancel` is signalled (which goes
  /// first and is not drained), or the deadline passes. No deadline waits for ever.
  static func poll(
    _ descriptor: Int32, events: Int32, until deadline: Instant?, cancel: WakeEvent?
  ) throws(SystemError) -> SocketReadiness {
    while true {
      var sets: (pollfd, pollfd) = (
        pollfd(fd: descriptor, events: Int16(events), revents: 0),
        pollfd(fd: cancel?.rawValue ?? -1, events: Int16(POLLIN), revents: 0)
      )
      let result = ppoll(&sets, until: deadline)
      if result < 0 {
        // EINTR: a signal came; the deadline is absolute, so just wait again.
        guard Errno.current == .interrupted else { throw SystemError("poll", "\(descriptor)") }
        continue
      }
      if sets.1.revents != 0 { return .cancelled }
      if sets.0.revents != 0 { return .ready }
      if let deadline, MonotonicClock.now() >= deadline { return .timedOut }
    }
  }

  private static func ppoll(_ sets: inout (pollfd, pollfd), until deadline: Instant?) -> Int32 {
    // unsafe: a tuple of two pollfd is laid out as an array of two, and lives during the call.
    unsafe withUnsafeMutableBytes(of: &sets) { bytes in
      let list = unsafe bytes.baseAddress!.assumingMemoryBound(to: pollfd.self)
      guard let deadline else { return unsafe Glibc.ppoll(list, 2, nil, nil) }
      let nanoseconds = deadline.nanoseconds(since: MonotonicClock.now())
      var time = timespec(
        tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
      return unsafe Glibc.ppoll(list, 2, &time, nil)
    }
  }
}
