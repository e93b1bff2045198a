internal import Migration
public import Session
internal import System
internal import Wire

// The stops that come over the control socket.
extension SourceSession {
  /// Where stops go: this session's own mailbox, so that no other session of the process and no
  /// signal handler has to do with them. For any thread, from the beginning on; false when so many
  /// wait already that this one is not taken.
  public var stopAddress: @Sendable (StopRequest) -> Bool {
    let inputs = inputs
    // Places for the VMM's answers and the doorkeeper's guests stay free.
    return { inputs.post(.stop($0), leaving: Self.inputCapacity / 2) }
  }

  func handle(_ request: StopRequest) {
    stopRequest = request
    switch request.stop {
    case .park: handle(SourceEvent.operatorPark)
    case .abort: handle(SourceEvent.operatorAbort)
    }
    // Not refused: the end of the session is the answer.
    stopRequest = nil
  }

  /// Tells whoever asked, by signal or over the control socket.
  func refuseStop(_ reason: Refusal) {
    observer(.stopRefused(reason))
    stopRequest?.refuse(reason.reason)
  }
}
