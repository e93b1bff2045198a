internal import Migration
public import Session
internal import System
internal import Wire

// The orders that come over the control socket.
extension DestinationSession {
  /// Where orders go: this session's own mailbox, so that no other session of the process and no
  /// signal handler has to do with them. For any thread, from the beginning on; false when so many
  /// wait already that this one is not taken.
  public var orderAddress: @Sendable (OrderRequest) -> Bool {
    let inputs = inputs
    // Places for the answers of the VMM and the dialler stay free.
    return { inputs.post(.order($0), leaving: Self.inputCapacity / 2) }
  }

  func handle(_ request: OrderRequest) {
    order = request
    switch request.order {
    case .park: stop(.operatorPark)
    case .abort: stop(.operatorAbort)
    case .switchOver:
      request.refuse("the rounds are the source's: say it on the host that the VM runs on")
    case .limitBandwidth:
      request.refuse("the source sends the pages: say it on the host that the VM leaves")
    }
    // A stop that is not refused: the end of the session is the answer.
    order = nil
  }

  /// Before a VMM has attached there is nothing that a core would have to decide.
  func stop(_ event: DestinationEvent) {
    if vm == nil, !isRecovered {
      cancelSetup.signal()
      return refuse(
        Refusal(.operatorRequest, "stopped by the operator before a VMM attached"))
    }
    handle(event)
  }

  /// Tells whoever asked, by signal or over the control socket.
  func refuseStop(_ reason: Refusal) {
    observer(.stopRefused(reason))
    order?.refuse(reason.reason)
  }
}
