public import System

/// A connection that could not be made or used any further: what was tried, with whom, and why.
public struct ConnectionError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What kind of end; decides what the caller does next.
  public enum Kind: Hashable, Sendable {
    /// The peer closed its side in good order (end of file), between or inside messages.
    case closedByPeer
    /// The stream ended without the goodbye that TLS demands: the link or the peer's process died,
    /// or somebody between us cut it short.
    case cut
    /// TLS with the peer did not come about, or went wrong.
    case tls(TLSFailure)
    /// The peer or its kernel reset the connection: it died, or threw away what was sent.
    case reset
    /// `shutdown()` was called here, by another thread.
    case shutDownHere
    /// The deadline passed, or the kernel gave up on an unreachable peer (TCP_USER_TIMEOUT).
    case timedOut
    /// Nothing was heard of the peer for the whole heartbeat budget, though nothing says that the
    /// connection has ended.
    case silent
    /// The caller's cancel event was signalled.
    case cancelled
    /// Nobody listens at that address.
    case refused
    /// No route to that host or network.
    case unreachable
    /// The host name has no address; the text is the resolver's.
    case nameNotFound(String)
    /// Another process listens at that address already.
    case addressInUse
    /// Anything else; `errno` tells.
    case failed
  }

  /// What kind of end.
  public let kind: Kind
  /// The call that met it, such as "send".
  public let operation: StaticOperation
  /// The address or the path of the peer, or of ourselves when listening.
  public let peer: String
  /// The kernel's number; 0 where the kernel reported none (end of file, deadline).
  public let errno: Errno

  /// An end of that kind.
  public init(
    _ kind: Kind, _ operation: StaticOperation, peer: String, errno: Errno = Errno(rawValue: 0)
  ) {
    self.kind = kind
    self.operation = operation
    self.peer = peer
    self.errno = errno
  }

  /// One line for an operator.
  public var description: String {
    let what =
      switch kind {
      case .closedByPeer: "the peer closed the connection"
      case .cut: "the connection was cut: its end came without the peer's goodbye"
      case .tls(let failure): failure.description
      case .reset: "the peer reset the connection"
      case .shutDownHere: "the connection was shut down on this side"
      case .timedOut: "no answer in time"
      case .silent: "nothing was heard of the peer within the heartbeat budget"
      case .cancelled: "cancelled"
      case .refused: "nobody listens there"
      case .unreachable: "the host cannot be reached"
      case .nameNotFound(let text): "the name has no address (\(text))"
      case .addressInUse: "the address is in use by another process"
      case .failed: "\(errno)"
      }
    return "\(operation.name) \(peer): \(what)"
  }
}
