internal import Glibc
internal import System

extension ConnectionError {
  /// What an error number of a socket call means here. Unknown ones are passed up with the number.
  init(_ operation: StaticOperation, peer: String, meaningOf errno: Errno) {
    let kind: Kind =
      switch errno.rawValue {
      // EPIPE: sending after the peer's reset was seen, or after our own shutdown (the caller of
      // this initialiser tells the two apart).
      case ECONNRESET, EPIPE, ECONNABORTED: .reset
      case ETIMEDOUT: .timedOut
      // ENOENT: a UNIX path that nobody has bound.
      case ECONNREFUSED, ENOENT: .refused
      case EHOSTUNREACH, ENETUNREACH, ENETDOWN, EHOSTDOWN: .unreachable
      case EADDRINUSE: .addressInUse
      default: .failed
      }
    self.init(kind, operation, peer: peer, errno: errno)
  }
}
