internal import CLinux
internal import Glibc
public import Pages

/// A stream over a UNIX socket whose every call ends by a given moment: for control protocols,
/// where the peer may be stuck. Not for the data path.
public struct LocalStream: ~Copyable, Sendable {
  /// The socket's path, for messages.
  public let path: String
  private let socket: OwnedDescriptor

  /// Takes over a connected stream socket; `path` names it in errors. It is made non-blocking.
  public init(adopting socket: consuming OwnedDescriptor, path: String) throws(SystemError) {
    let flags = clinux_fcntl_int(socket.rawValue, F_GETFL, 0)
    guard flags >= 0, clinux_fcntl_int(socket.rawValue, F_SETFL, flags | O_NONBLOCK) == 0 else {
      throw SystemError("fcntl(O_NONBLOCK)", path)
    }
    self.path = path
    self.socket = socket
  }

  /// Connects to the listener at `path`. ETIMEDOUT when its queue stays full until the deadline,
  /// ENAMETOOLONG for a path that no socket address holds.
  public static func connect(
    _ path: String, deadline: Instant
  ) throws(SystemError) -> LocalStream {
    let number = Glibc.socket(
      AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard number >= 0 else { throw SystemError("socket", path) }
    let stream = try LocalStream(adopting: OwnedDescriptor(adopting: number), path: path)
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    guard length > 0 else { throw SystemError("connect", path) }
    while true {
      // unsafe: the address lives through the call, and its length is what was filled in.
      let result = unsafe withUnsafePointer(to: &address) {
        unsafe clinux_connect(number, UnsafeRawPointer($0), UInt32(length))
      }
      if result == 0 { return stream }
      switch Errno.current {
      case .tryAgain:
        // A full queue of a UNIX listener cannot be polled for: ask again, a few times a second.
        guard MonotonicClock.now() < deadline else {
          throw SystemError("connect", path, Errno(rawValue: ETIMEDOUT))
        }
        poll(nil, 0, Int32(Self.connectRetryMilliseconds))
      case .interrupted: continue
      default: throw SystemError("connect", path)
      }
    }
  }

  /// Short against any time-out of a VMM command, long against a listener's accept loop.
  private static let connectRetryMilliseconds = 5

  /// Sends all the bytes. ETIMEDOUT when the peer does not take them in time.
  public borrowing func send(_ bytes: [UInt8], deadline: Instant) throws(SystemError) {
    var done = 0
    while done < bytes.count {
      // unsafe: `done` is below the span's length, which bounds the send.
      let count = unsafe bytes.span.withUnsafeBytes {
        unsafe Glibc.send(
          socket.rawValue, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL))
      }
      if count >= 0 {
        done += count
        continue
      }
      switch Errno.current {
      case .tryAgain: try wait(events: Int16(POLLOUT), operation: "send", deadline: deadline)
      case .interrupted: continue
      default: throw SystemError("send", path)
      }
    }
  }

  /// Receives what comes next, up to the array's length; 0 when the peer has closed. ETIMEDOUT when
  /// nothing comes in time.
  public borrowing func receive(
    into bytes: inout [UInt8], deadline: Instant
  ) throws(SystemError) -> Int {
    while true {
      var span = bytes.mutableSpan
      // unsafe: the span is as long as recv is told.
      let count = unsafe span.withUnsafeMutableBytes {
        unsafe recv(socket.rawValue, $0.baseAddress, $0.count, 0)
      }
      if count >= 0 { return count }
      switch Errno.current {
      case .tryAgain: try wait(events: Int16(POLLIN), operation: "recv", deadline: deadline)
      case .interrupted: continue
      default: throw SystemError("recv", path)
      }
    }
  }

  private borrowing func wait(
    events: Int16, operation: StaticOperation, deadline: Instant
  ) throws(SystemError) {
    while true {
      let left = deadline.nanoseconds(since: MonotonicClock.now())
      guard left > 0 else { throw SystemError(operation, path, Errno(rawValue: ETIMEDOUT)) }
      // Rounded up, so that the last wait does not spin through the final millisecond.
      let milliseconds = Int32(clamping: (left + 999_999) / 1_000_000)
      var entry = pollfd(fd: socket.rawValue, events: events, revents: 0)
      let ready = unsafe poll(&entry, 1, milliseconds)
      if ready > 0 { return }
      guard ready == 0 || Errno.current == .interrupted else { throw SystemError("poll", path) }
    }
  }
}
