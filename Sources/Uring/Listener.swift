internal import CLinux
internal import Glibc
public import Pages
public import System

/// A listening socket. A UNIX socket's file is removed when the listener goes away.
public final class Listener: Sendable {
  /// Connections that wait to be accepted: every connection of one session at once, and strangers
  /// that are refused in turn.
  static let backlog: Int32 = 32
  /// Only the owner may connect to a UNIX socket: guest memory is read through it.
  static let socketFileMode: mode_t = 0o600

  /// Where it listens, with the port that the kernel chose if 0 was asked for.
  public let endpoint: Endpoint
  private let descriptor: OwnedDescriptor
  private let socketFile: FileIdentity?
  private let tls: TLSContext?

  private struct FileIdentity: Hashable, Sendable {
    let device: UInt64
    let inode: UInt64
  }

  /// Listens at `endpoint`, at the first of a name's addresses that can be bound. The file of a
  /// UNIX socket that nobody listens on any more is replaced. With `tls` its connections speak TLS,
  /// but for those on a UNIX socket, which need none.
  public init(_ endpoint: Endpoint, tls: TLSContext? = nil) throws(ConnectionError) {
    self.tls = endpoint.isUnix ? nil : tls
    var bound: OwnedDescriptor?
    var last = ConnectionError(.nameNotFound("no address"), "listen", peer: endpoint.description)
    for address in try endpoint.addresses(forListening: true) where bound == nil {
      do throws(ConnectionError) {
        bound = try Self.listen(at: address, endpoint)
      } catch {
        last = error
      }
    }
    guard let descriptor = bound.take() else { throw last }
    switch endpoint {
    case .unix(let path):
      self.endpoint = endpoint
      self.socketFile = Self.identity(ofFile: path)
    case .internet:
      self.endpoint = Self.localEndpoint(of: descriptor) ?? endpoint
      self.socketFile = nil
    }
    self.descriptor = descriptor
  }

  deinit {
    // Another listener may have taken the path since: only our own file is removed.
    if case .unix(let path) = endpoint, let socketFile,
      Self.identity(ofFile: path) == socketFile
    {
      // unsafe: the path is a valid string during the call.
      _ = unsafe unlink(path)
    }
  }

  /// The socket's number, to wait for it to become readable. Never close it.
  public var rawDescriptor: Int32 { descriptor.rawValue }

  /// Waits for the next client until the deadline (none: for ever) or until `cancel` is signalled.
  /// Its purpose is not known before its hello: see `Connection.setPurpose`. Under TLS the
  /// handshake is still to be made: see `Connection.advanceHandshake`.
  public func accept(
    until deadline: Instant? = nil, cancel: WakeEvent? = nil
  ) throws(ConnectionError) -> Connection {
    while true {
      switch try wait(until: deadline, cancel: cancel) {
      case .cancelled: throw ConnectionError(.cancelled, "accept", peer: endpoint.description)
      case .timedOut: throw ConnectionError(.timedOut, "accept", peer: endpoint.description)
      case .ready: break
      }
      var address = SocketAddress.unset
      // unsafe: the address lives during the call, with its true length.
      let number = unsafe address.withPointer { pointer, length in
        unsafe accept4(
          descriptor.rawValue, .init(__sockaddr__: pointer), &length,
          Int32(SOCK_CLOEXEC.rawValue))
      }
      if number >= 0 {
        let socket = OwnedDescriptor(adopting: number)
        let peer = endpoint.isUnix ? endpoint : Endpoint(address) ?? endpoint
        return try Connection(
          adopting: socket, peer: peer, purpose: .urgent, tls.map { ($0, .server) })
      }
      switch Errno.current.rawValue {
      // The client went away before we took it: wait for the next one.
      case EAGAIN, EINTR, ECONNABORTED, EPROTO: continue
      default:
        throw ConnectionError("accept", peer: endpoint.description, meaningOf: .current)
      }
    }
  }

  private func wait(
    until deadline: Instant?, cancel: WakeEvent?
  ) throws(ConnectionError) -> SocketReadiness {
    do throws(SystemError) {
      return try SocketWait.poll(
        descriptor.rawValue, events: POLLIN, until: deadline, cancel: cancel)
    } catch {
      throw ConnectionError("accept", peer: endpoint.description, meaningOf: error.errno)
    }
  }
}

extension Listener {
  private static func listen(
    at address: SocketAddress, _ endpoint: Endpoint
  ) throws(ConnectionError) -> OwnedDescriptor {
    let name = endpoint.description
    let number = Glibc.socket(
      address.family,
      Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard number >= 0 else { throw ConnectionError("socket", peer: name, meaningOf: .current) }
    let socket = OwnedDescriptor(adopting: number)
    if case .unix(let path) = endpoint {
      removeStaleSocketFile(path)
      // A UNIX socket's file gets the mode of its inode before bind, less the umask: set here
      // there is no moment at which others could connect.
      guard fchmod(number, socketFileMode) == 0 else {
        throw ConnectionError(.failed, "fchmod", peer: name, errno: .current)
      }
    } else {
      // The port of a session that has just ended must be free for the next one.
      var one: Int32 = 1
      // unsafe: the option is an int, and the local variable lives during the call.
      let result = unsafe setsockopt(
        number, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
      guard result == 0 else {
        throw ConnectionError(.failed, "setsockopt", peer: name, errno: .current)
      }
    }
    var address = address
    // unsafe: the address lives during the call, with its true length.
    let result = unsafe address.withPointer { pointer, length in
      unsafe bind(number, .init(__sockaddr__: pointer), length)
    }
    guard result == 0 else {
      let errno = Errno.current
      throw errno == .noSuchEntry
        ? ConnectionError(.failed, "bind", peer: name, errno: errno)
        : ConnectionError("bind", peer: name, meaningOf: errno)
    }
    guard Glibc.listen(number, backlog) == 0 else {
      throw ConnectionError("listen", peer: name, meaningOf: .current)
    }
    return socket
  }

  /// Removes what a killed process left behind: a socket file on which nobody listens. A live one
  /// stays, and so does anything that is no socket: bind then says that the address is in use.
  private static func removeStaleSocketFile(_ path: String) {
    var status = stat()
    // unsafe: path and status live during the call.
    guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return }
    let now = MonotonicClock.now()
    do throws(ConnectionError) {
      _ = try Connection.dial(.unix(path: path), purpose: .urgent, until: now)
    } catch {
      if error.kind == .refused, error.errno.rawValue == ECONNREFUSED { _ = unsafe unlink(path) }
    }
  }

  private static func identity(ofFile path: String) -> FileIdentity? {
    var status = stat()
    // unsafe: path and status live during the call.
    guard unsafe lstat(path, &status) == 0 else { return nil }
    return FileIdentity(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
  }

  private static func localEndpoint(of descriptor: borrowing OwnedDescriptor) -> Endpoint? {
    let number = descriptor.rawValue
    var address = SocketAddress.unset
    // unsafe: the address lives during the call, with its true length.
    let result = unsafe address.withPointer { pointer, length in
      unsafe getsockname(number, .init(__sockaddr__: pointer), &length)
    }
    return result == 0 ? Endpoint(address) : nil
  }
}

extension Endpoint {
  var isUnix: Bool {
    if case .unix = self { true } else { false }
  }
}
