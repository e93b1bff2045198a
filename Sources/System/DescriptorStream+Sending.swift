internal import CLinux
internal import Glibc
public import Pages

/// Who is at the other end of a UNIX socket: SO_PEERCRED, as the kernel knows it.
public struct PeerCredentials: Hashable, Sendable {
  /// The process id; for the end that connected, of whoever listened.
  public let processID: Int32
  /// The effective user.
  public let user: UInt32
}

/// Two ends of one channel. Each is taken once.
public struct DescriptorStreamPair: ~Copyable, Sendable {
  private var first: OwnedDescriptor?
  private var second: OwnedDescriptor?

  /// A pair that keeps messages whole (SOCK_SEQPACKET), so that descriptors stay with the message
  /// that names them. Neither end blocks a sender.
  public static func packets() throws(SystemError) -> DescriptorStreamPair {
    var ends: [2 of Int32] = [-1, -1]
    var span = ends.mutableSpan
    let kind =
      Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
      | Int32(SOCK_NONBLOCK.rawValue)
    // unsafe: two numbers, as the call fills in.
    let result = unsafe span.withUnsafeMutableBufferPointer {
      unsafe socketpair(AF_UNIX, kind, 0, $0.baseAddress)
    }
    guard result == 0 else { throw SystemError("socketpair") }
    return DescriptorStreamPair(
      first: OwnedDescriptor(adopting: ends[0]), second: OwnedDescriptor(adopting: ends[1]))
  }

  /// One end, once.
  public mutating func takeFirst() -> DescriptorStream {
    guard let taken = first.take() else { invariantBroken("an end of a pair is taken once") }
    return DescriptorStream(adopting: taken)
  }

  /// The other end, once; as a descriptor, to pass it on.
  public mutating func takeSecond() -> OwnedDescriptor {
    guard let taken = second.take() else { invariantBroken("an end of a pair is taken once") }
    return taken
  }
}

extension DescriptorStream {
  /// Short against any time-out of an answer, long against a listener's accept loop.
  private static let connectRetryNanoseconds: UInt64 = 5_000_000

  /// Connects to the listener at `path`. ETIMEDOUT when its queue stays full until the deadline.
  public static func connect(
    _ path: String, deadline: Instant
  ) throws(SystemError) -> DescriptorStream {
    let kind =
      Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let number = socket(AF_UNIX, kind, 0)
    guard number >= 0 else { throw SystemError("socket", path) }
    let stream = DescriptorStream(adopting: OwnedDescriptor(adopting: number))
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    guard length > 0 else { throw SystemError("connect", path) }
    while true {
      // unsafe: the address lives through the call, and its length is what was filled in.
      let result = unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe Glibc.connect(number, .init(__sockaddr__: $0), socklen_t(length))
        }
      }
      if result == 0 { return stream }
      switch Errno.current {
      case .interrupted: continue
      // A full queue of a UNIX listener cannot be polled for: ask again after a moment.
      case .tryAgain:
        guard MonotonicClock.now() < deadline else {
          throw SystemError("connect", path, .timedOut)
        }
        _ = try Readiness.wait(
          for: [],
          until: MonotonicClock.now().advanced(byNanoseconds: connectRetryNanoseconds))
      default: throw SystemError("connect", path)
      }
    }
  }

  /// The number to wait on: readable while something can be received, or the peer has closed. Never
  /// close it.
  public var rawValue: Int32 { descriptor.rawValue }

  /// Makes sends end at once, whatever the peer does. Receives wait for readability themselves.
  public borrowing func makeNonBlocking() throws(SystemError) {
    let flags = clinux_fcntl_int(descriptor.rawValue, F_GETFL, 0)
    guard flags >= 0,
      clinux_fcntl_int(descriptor.rawValue, F_SETFL, flags | O_NONBLOCK) == 0
    else { throw SystemError("fcntl(O_NONBLOCK)") }
  }

  /// Sends all the bytes, with duplicates of these descriptors, or says that it cannot: EAGAIN when
  /// the peer's buffer has no room for all of them (a part of a stream's may have left; the stream
  /// is of no use then), EPIPE when the peer is gone. For streams that do not block.
  public borrowing func send(
    _ bytes: [UInt8], descriptors: [Int32] = []
  ) throws(SystemError) {
    while true {
      // unsafe: both buffers live during the call and are as long as it is told.
      let count = unsafe bytes.span.withUnsafeBytes { buffer in
        unsafe descriptors.span.withUnsafeBufferPointer { numbers in
          unsafe clinux_send_with_descriptors(
            descriptor.rawValue, buffer.baseAddress, buffer.count, numbers.baseAddress,
            Int32(numbers.count))
        }
      }
      if count == bytes.count { return }
      if count >= 0 { throw SystemError("sendmsg", "a peer that does not read", .tryAgain) }
      guard Errno.current == .interrupted else { throw SystemError("sendmsg") }
    }
  }
}
