internal import CLinux
internal import Glibc
public import Pages
public import System

extension Connection {
  /// Connects to `endpoint`, trying each address of a name in turn until one answers or the
  /// deadline passes; the error is that of the last one tried. `cancel` ends the wait. With `tls`
  /// the handshake is part of it, but for a UNIX socket, which needs none.
  public static func dial(
    _ endpoint: Endpoint, purpose: Purpose, tls: TLSContext? = nil, until deadline: Instant,
    cancel: WakeEvent? = nil
  ) throws(ConnectionError) -> Connection {
    var last = ConnectionError(.nameNotFound("no address"), "connect", peer: endpoint.description)
    for address in try endpoint.addresses(forListening: false) {
      do throws(ConnectionError) {
        let socket = try connect(to: address, endpoint, until: deadline, cancel: cancel)
        let connection = try Connection(
          adopting: socket, peer: endpoint, purpose: purpose,
          endpoint.isUnix ? nil : tls.map { ($0, .client) })
        try connection.shakeHands(until: deadline, cancel: cancel)
        return connection
      } catch {
        if error.kind == .cancelled { throw error }
        last = error
      }
    }
    throw last
  }

  /// Two ends of one connection inside this host, without any address. With two contexts the first
  /// end dials and the second accepts, by TLS; the handshake is still to be made.
  public static func pair(
    purpose: Purpose, tls: (TLSContext, TLSContext)? = nil
  ) throws(ConnectionError) -> (Connection, Connection) {
    var numbers: (Int32, Int32) = (-1, -1)
    let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
    // unsafe: a tuple of two Int32 is laid out as the array of two that the kernel fills.
    let result = unsafe withUnsafeMutableBytes(of: &numbers) { bytes in
      unsafe socketpair(
        AF_UNIX, kind, 0, bytes.baseAddress!.assumingMemoryBound(to: Int32.self))
    }
    guard result == 0 else {
      throw ConnectionError(.failed, "socketpair", peer: "", errno: .current)
    }
    let first = OwnedDescriptor(adopting: numbers.0)
    let second = OwnedDescriptor(adopting: numbers.1)
    return (
      try Connection(
        adopting: first, peer: .unix(path: "pair"), purpose: purpose, tls.map { ($0.0, .client) }),
      try Connection(
        adopting: second, peer: .unix(path: "pair"), purpose: purpose, tls.map { ($0.1, .server) })
    )
  }

  private static func connect(
    to address: SocketAddress, _ endpoint: Endpoint, until deadline: Instant, cancel: WakeEvent?
  ) throws(ConnectionError) -> OwnedDescriptor {
    let name = endpoint.description
    let number = Glibc.socket(
      address.family,
      Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard number >= 0 else { throw ConnectionError("socket", peer: name, meaningOf: .current) }
    let socket = OwnedDescriptor(adopting: number)
    var address = address
    // unsafe: the address lives during the call, with its true length.
    let result = unsafe address.withPointer { pointer, length in
      unsafe Glibc.connect(number, .init(__sockaddr__: pointer), length)
    }
    if result != 0 {
      let errno = Errno.current
      // EAGAIN: a UNIX listener whose queue is full. EINPROGRESS: TCP is on its way. EINTR goes on
      // as if it were in progress. The rest is final.
      guard errno.rawValue == EINPROGRESS || errno == .interrupted else {
        throw errno == .tryAgain
          ? ConnectionError(.refused, "connect", peer: name, errno: errno)
          : ConnectionError("connect", peer: name, meaningOf: errno)
      }
      try finishConnecting(socket, name, until: deadline, cancel: cancel)
    }
    // Blocking from here on: io_uring answers EAGAIN at once on a non-blocking socket.
    let flags = clinux_fcntl_int(number, F_GETFL, 0)
    guard flags >= 0, clinux_fcntl_int(number, F_SETFL, flags & ~O_NONBLOCK) == 0 else {
      throw ConnectionError(.failed, "fcntl", peer: name, errno: .current)
    }
    return socket
  }

  private static func finishConnecting(
    _ socket: borrowing OwnedDescriptor, _ name: String, until deadline: Instant,
    cancel: WakeEvent?
  ) throws(ConnectionError) {
    let readiness: SocketReadiness
    do throws(SystemError) {
      readiness = try SocketWait.poll(
        socket.rawValue, events: POLLOUT, until: deadline, cancel: cancel)
    } catch {
      throw ConnectionError("connect", peer: name, meaningOf: error.errno)
    }
    switch readiness {
    case .cancelled: throw ConnectionError(.cancelled, "connect", peer: name)
    case .timedOut: throw ConnectionError(.timedOut, "connect", peer: name)
    case .ready: break
    }
    var number: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    // unsafe: both locals live during the call; the option is an int.
    guard unsafe getsockopt(socket.rawValue, SOL_SOCKET, SO_ERROR, &number, &length) == 0 else {
      throw ConnectionError("connect", peer: name, meaningOf: .current)
    }
    guard number == 0 else {
      throw ConnectionError("connect", peer: name, meaningOf: Errno(rawValue: number))
    }
  }
}
