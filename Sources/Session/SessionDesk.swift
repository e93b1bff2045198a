public import Migration
public import System

/// The stops that an operator can ask for.
public enum SessionStop: Hashable, Sendable {
  /// With everything kept.
  case park
  /// Giving up, as by SIGTERM.
  case abort
}

/// A stop on its way to the session's thread.
public struct StopRequest: Sendable {
  /// What is asked for.
  public let stop: SessionStop
  /// Tells whoever asked that the session goes on, and why. Never blocks. When the session ends,
  /// the end is the answer.
  public let refuse: @Sendable (_ reason: String) -> Void

  /// A stop, and the way back for a no.
  public init(_ stop: SessionStop, refuse: @escaping @Sendable (_ reason: String) -> Void) {
    self.stop = stop
    self.refuse = refuse
  }
}

/// What became of a stop.
public struct StopVerdict: Sendable {
  /// Which one; nil: all that wait.
  public let ticket: UInt64?
  /// What those who asked are told.
  public let answer: SessionAnswer
}

/// What the control socket asks of a session. Called on the control socket's own thread: answer
/// from what is at hand, wait for nothing.
public protocol SessionControl: Sendable {
  /// What it does now.
  var status: SessionStatus { get }
  /// Passes a stop on to the session's thread. Returns what is known at once; nil when `verdicts`
  /// will tell what became of it.
  func ask(for stop: SessionStop, ticket: UInt64) -> SessionAnswer?
  /// What became of stops. For the control socket's thread alone.
  var verdicts: Mailbox<StopVerdict> { get }
}

/// What is asked of a session, at a desk that its own thread keeps up to date: all that a session
/// needs to be controlled.
public final class SessionDesk: SessionControl {
  private struct State {
    var status: SessionStatus
    var pass: (@Sendable (StopRequest) -> Bool)?
    var end: SessionAnswer?
  }

  /// One for each client that waits, the end, and room.
  private static let verdictCapacity = 2 * ControlSocket.maximumClientCount

  /// Refusals, and the end.
  public let verdicts: Mailbox<StopVerdict>
  private let state: Lock<State>

  /// A desk at which stops are taken once `pass(to:)` was called.
  public init(_ status: SessionStatus) throws(SystemError) {
    verdicts = try Mailbox(capacity: Self.verdictCapacity)
    state = Lock(State(status: status))
  }

  /// As the session has told it last.
  public var status: SessionStatus { state.withLock { $0.status } }

  /// Tells something new. Takes a lock for as long as `change` does: not for the fault path.
  public func update(_ change: (inout SessionStatus) -> Void) {
    state.withLock { change(&$0.status) }
  }

  /// From now on stops go there: to the mailbox of this very session. `pass` returns false when
  /// that is full.
  public func pass(to pass: @escaping @Sendable (StopRequest) -> Bool) {
    state.withLock { $0.pass = pass }
  }

  /// The session has ended so: the answer for whoever has asked it to stop, or will.
  public func end(_ outcome: Outcome) {
    let answer = SessionAnswer.ended(outcome)
    state.withLock { $0.end = answer }
    let isPosted = verdicts.post(StopVerdict(ticket: nil, answer: answer))
    // So many refusals that nobody takes: the control thread is gone, and its clients with it.
    _ = isPosted
  }

  /// Passes it on.
  public func ask(for stop: SessionStop, ticket: UInt64) -> SessionAnswer? {
    let (pass, end) = state.withLock { ($0.pass, $0.end) }
    if let end { return end }
    let verdicts = verdicts
    let request = StopRequest(stop) { reason in
      _ = verdicts.post(StopVerdict(ticket: ticket, answer: .failed(reason)), leaving: 1)
    }
    guard let pass, pass(request) else {
      return .failed("the session takes no stop now; ask again")
    }
    return nil
  }
}
