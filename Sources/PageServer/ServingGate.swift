internal import System

/// Whether one thread may read the source's memory. Each reading thread has a gate of its own, so
/// that none waits for another; only the control thread, when it opens or closes, waits for a read
/// that is under way.
final class ServingGate: Sendable {
  enum State: Sendable {
    /// The VM may still run: its memory is not final.
    case notYet
    /// The memory is final.
    case open
    /// The memory is about to change, or lost: nothing is read any more.
    case closed
  }

  private let state: Lock<State>

  init(_ initial: State) { state = Lock(initial) }

  /// The state now; it can change right afterwards.
  var current: State { state.withLock { $0 } }

  /// Runs `body` while the gate stays as it is, and tells how that is.
  func withState<Result, Failure: Error>(
    _ body: (State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try state.withLock { (state) throws(Failure) in try body(state) }
  }

  /// When it returns, no read that began before is under way.
  func set(_ new: State) {
    state.withLock { state in
      // What was lost stays lost.
      if state != .closed { state = new }
    }
  }
}
