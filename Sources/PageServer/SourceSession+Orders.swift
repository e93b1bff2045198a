internal import Migration
public import Session
internal import System
internal import Wire

// The orders that come over the control socket.
extension SourceSession {
  /// Where orders go: this session's own mailbox, so that no other session of the process and no
  /// signal handler has to do with them. For any thread, from the beginning on; false when so many
  /// wait already that this one is not taken.
  public var orderAddress: @Sendable (OrderRequest) -> Bool {
    let inputs = inputs
    // Places for the VMM's answers and the doorkeeper's guests stay free.
    return { inputs.post(.order($0), leaving: Self.inputCapacity / 2) }
  }

  func handle(_ request: OrderRequest) {
    order = request
    switch request.order {
    case .park: handle(SourceEvent.operatorPark)
    case .abort: handle(SourceEvent.operatorAbort)
    case .switchOver:
      if let refusal = switchOver() { request.refuse(refusal.reason) } else { request.accept() }
    case .limitBandwidth(let bytesPerSecond):
      limitBandwidth(bytesPerSecond)
      request.accept()
    }
    // A stop that is not refused: the end of the session is the answer.
    order = nil
  }

  /// From now on, over this link and those to come.
  private func limitBandwidth(_ bytesPerSecond: UInt64?) {
    bandwidth.set(bytesPerSecond: bytesPerSecond)
    plane?.bandwidthChanged()
    seeder?.bandwidthChanged()
    observer(.bandwidthLimited(bytesPerSecond: bytesPerSecond))
  }

  /// Tells whoever asked, by signal or over the control socket.
  func refuseStop(_ reason: Refusal) {
    observer(.stopRefused(reason))
    order?.refuse(reason.reason)
  }
}
