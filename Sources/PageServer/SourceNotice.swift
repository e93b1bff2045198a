public import Uring
public import Wire

/// What the source's data threads tell the control thread.
public enum SourceNotice: Sendable {
  /// A control message came in on the urgent connection. Never `ping`: that is answered already.
  case received(ControlMessage)
  /// A connection is of no further use; its thread sends and receives nothing more. Told once for
  /// each connection, and never for those that `stop` ends.
  case linkLost(ConnectionRole, LinkFailure)
  /// A page of the source's memory cannot be read. Nothing more is read from it.
  case memoryLost(MemoryError)
  /// Every page has been pushed once, or was asked for: no bulk connection has any left.
  case pushFinished
}

/// Why a link ended.
public enum LinkFailure: Error, Hashable, Sendable, CustomStringConvertible {
  /// The connection itself: closed, reset, timed out.
  case connection(ConnectionError)
  /// The peer sent what the protocol does not allow.
  case violation(WireError)
  /// The peer gave the session up, for that reason.
  case refused(Refusal)
  /// Nothing was heard of the peer for the whole heartbeat budget.
  case silent(budgetNanoseconds: UInt64)
  /// The peer sends control messages faster than anybody could mean them.
  case flooded

  /// One line for an operator.
  public var description: String {
    switch self {
    case .connection(let error): error.description
    case .violation(let error): error.description
    case .refused(let refusal): "the peer gave the session up: \(refusal.reason)"
    case .silent(let budgetNanoseconds):
      "nothing was heard of the peer for \(budgetNanoseconds / 1_000_000) ms"
    case .flooded: "the peer sends control messages without end"
    }
  }

  /// Whether the link could have gone on, but for what the peer sent.
  var isPeersFault: Bool {
    switch self {
    case .violation, .flooded: true
    case .connection, .refused, .silent: false
    }
  }

  /// What to tell the peer, as far as it can still be told.
  public var refusal: Refusal {
    switch self {
    case .connection(let error): Refusal(.timeout, error.description)
    case .violation(let error): error.refusal
    case .refused(let refusal): refusal
    case .silent: Refusal(.timeout, description)
    case .flooded: Refusal(.protocolViolation, description)
    }
  }
}

/// Why a thread cannot go on with a run of pages.
enum ServeError: Error {
  case link(LinkFailure)
  case memory(MemoryError)
}
