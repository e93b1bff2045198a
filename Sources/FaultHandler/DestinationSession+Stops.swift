internal import Migration
public import Session
internal import System
internal import Wire

// The stops that come over the control socket.
extension DestinationSession {
  /// Where stops go: this session's own mailbox, so that no other session of the process and no
  /// signal handler has to do with them. For any thread, from the beginning on; false when so many
  /// wait already that this one is not taken.
  public var stopAddress: @Sendable (StopRequest) -> Bool {
    let inputs = inputs
    // Places for the answers of the VMM and the dialler stay free.
    return { inputs.post(.stop($0), leaving: Self.inputCapacity / 2) }
  }

  func handle(_ request: StopRequest) {
    stopRequest = request
    stop(request.stop)
    // Not refused: the end of the session is the answer.
    stopRequest = nil
  }

  /// Before a VMM has attached there is nothing that a core would have to decide.
  func stop(_ stop: SessionStop) {
    if vm == nil, !isRecovered {
      cancelSetup.signal()
      return refuse(
        Refusal(.operatorRequest, "stopped by the operator before a VMM attached"))
    }
    switch stop {
    case .park: handle(DestinationEvent.operatorPark)
    case .abort: handle(DestinationEvent.operatorAbort)
    }
  }

  /// Tells whoever asked, by signal or over the control socket.
  func refuseStop(_ reason: Refusal) {
    observer(.stopRefused(reason))
    stopRequest?.refuse(reason.reason)
  }
}
