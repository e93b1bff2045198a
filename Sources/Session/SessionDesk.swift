public import Migration
public import System

/// What an operator can ask a session to do.
public enum SessionOrder: Hashable, Sendable {
  /// To stop with everything kept.
  case park
  /// To stop and give up, as by SIGTERM.
  case abort
  /// To end its rounds and switch the VM over.
  case switchOver
  /// To send so many bytes in a second at most, beside what the VM waits for; nil for all that
  /// goes.
  case limitBandwidth(bytesPerSecond: UInt64?)
}

/// An order on its way to the session's thread.
public struct OrderRequest: Sendable {
  /// What is asked for.
  public let order: SessionOrder
  private let answer: @Sendable (SessionAnswer) -> Void

  /// An order, and the way back for its answer, which must not block. A stop that is not refused
  /// is answered by the session's end.
  public init(_ order: SessionOrder, answer: @escaping @Sendable (SessionAnswer) -> Void) {
    self.order = order
    self.answer = answer
  }

  /// Tells whoever asked that it is done, or will be.
  public func accept() { answer(.done()) }

  /// Tells whoever asked that it is not done, and why.
  public func refuse(_ reason: String) { answer(.failed(reason)) }
}

/// What became of an order.
public struct OrderVerdict: Sendable {
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
  /// Passes an order on to the session's thread. Returns what is known at once; nil when `verdicts`
  /// will tell what became of it.
  func ask(for order: SessionOrder, ticket: UInt64) -> SessionAnswer?
  /// What became of orders. For the control socket's thread alone.
  var verdicts: Mailbox<OrderVerdict> { get }
}

/// What is asked of a session, at a desk that its own thread keeps up to date: all that a session
/// needs to be controlled.
public final class SessionDesk: SessionControl {
  private struct State {
    var status: SessionStatus
    var pass: (@Sendable (OrderRequest) -> Bool)?
    var end: SessionAnswer?
  }

  /// One for each client that waits, the end, and room.
  private static let verdictCapacity = 2 * ControlSocket.maximumClientCount

  /// Answers, and the end.
  public let verdicts: Mailbox<OrderVerdict>
  private let state: Lock<State>

  /// A desk at which orders are taken once `pass(to:)` was called.
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

  /// From now on orders go there: to the mailbox of this very session. `pass` returns false when
  /// that is full.
  public func pass(to pass: @escaping @Sendable (OrderRequest) -> Bool) {
    state.withLock { $0.pass = pass }
  }

  /// The session has ended so: the answer for whoever has asked it to stop, or will.
  public func end(_ outcome: Outcome) {
    let answer = SessionAnswer.ended(outcome)
    state.withLock { $0.end = answer }
    let isPosted = verdicts.post(OrderVerdict(ticket: nil, answer: answer))
    // So many answers that nobody takes: the control thread is gone, and its clients with it.
    _ = isPosted
  }

  /// Passes it on.
  public func ask(for order: SessionOrder, ticket: UInt64) -> SessionAnswer? {
    let (pass, end) = state.withLock { ($0.pass, $0.end) }
    if let end { return end }
    let verdicts = verdicts
    let request = OrderRequest(order) { answer in
      _ = verdicts.post(OrderVerdict(ticket: ticket, answer: answer), leaving: 1)
    }
    guard let pass, pass(request) else {
      return .failed("the session takes no order now; ask again")
    }
    return nil
  }
}
