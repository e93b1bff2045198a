internal import CLinux
internal import Glibc
internal import Pages
internal import System
internal import Uring

extension Connection {
  /// The kernel's own verdicts are not the relay's business: it stays as long as its sides do.
  func keepWhateverComes() {
    for (level, name) in [(Int32(IPPROTO_TCP), TCP_USER_TIMEOUT), (SOL_SOCKET, SO_KEEPALIVE)] {
      var off: Int32 = 0
      // A UNIX socket has neither, and says so.
      // unsafe: the option is an int, and the local variable lives during the call.
      _ = unsafe setsockopt(
        rawDescriptor, level, name, &off, socklen_t(MemoryLayout<Int32>.size))
    }
  }

  /// Makes the last close send a reset instead of the end: SO_LINGER with no time.
  func abandonWithReset() {
    var option = linger(l_onoff: 1, l_linger: 0)
    // Refused where there is nothing to reset.
    // unsafe: the local variable lives during the call, with its true size.
    _ = unsafe setsockopt(
      rawDescriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
  }

  /// Sends what there is room for; how much.
  func trySend(_ bytes: ArraySlice<UInt8>) throws(ConnectionError) -> Int {
    let piece = Array(bytes)
    // unsafe: the bytes of an array of bytes may be read as such; the array lives during the call.
    return try unsafe trySend(piece.span.bytes)
  }
}

/// What one descriptor is waited for, and what came.
struct PollEntry {
  let descriptor: Int32
  var wantsRead = false
  var wantsWrite = false
  /// Only whether the other side has ended its stream, whatever it has sent before.
  var wantsEnd = false
  fileprivate(set) var isReadable = false
  fileprivate(set) var isWritable = false
  fileprivate(set) var hasEnded = false
}

enum RelayPoll {
  /// Waits for any of the entries, or until the deadline. An entry that wants nothing is not looked
  /// at: even its end is then no news.
  static func wait(_ entries: inout [PollEntry], until deadline: Instant) throws(SystemError) {
    var sets = entries.map { entry in
      pollfd(
        fd: entry.wantsRead || entry.wantsWrite || entry.wantsEnd ? entry.descriptor : -1,
        events: Int16(
          (entry.wantsRead ? POLLIN : 0) | (entry.wantsWrite ? POLLOUT : 0)
            | (entry.wantsEnd ? POLLRDHUP : 0)), revents: 0)
    }
    let left = deadline.nanoseconds(since: MonotonicClock.now())
    var time = timespec(tv_sec: Int(left / 1_000_000_000), tv_nsec: Int(left % 1_000_000_000))
    // unsafe: the array lives during the call, which gets its count.
    let result = unsafe ppoll(&sets, nfds_t(sets.count), &time, nil)
    // EINTR: the caller looks at its clock and comes again.
    guard result >= 0 || Errno.current == .interrupted else { throw SystemError("ppoll") }
    for index in entries.indices {
      let found = result > 0 ? Int32(sets[index].revents) : 0
      let hasFailed = found & (POLLERR | POLLHUP | POLLNVAL) != 0
      entries[index].isReadable = entries[index].wantsRead && (found & POLLIN != 0 || hasFailed)
      entries[index].hasEnded = entries[index].wantsEnd && (found & POLLRDHUP != 0 || hasFailed)
      entries[index].isWritable = entries[index].wantsWrite && (found & POLLOUT != 0 || hasFailed)
    }
  }
}
