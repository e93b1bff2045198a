internal import Pages
internal import Wire

/// What comes from the source, the operator and the timers.
extension DestinationCore {
  mutating func linkUp(
    _ welcome: Welcome, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    invariant(!isLinkUp, "a new link comes only after the old one was called down")
    isLinkUp = true
    if state == .dialing {
      if welcome.isHandedOff {
        let refusal = Refusal(.session, "the source has handed this VM to another destination")
        return abandon(refusal, now, into: &effects)
      }
      session = welcome.session
      epoch = welcome.epoch
      mode = welcome.mode
      state = .opening
      return effects.append(.journal(.opened(session: session, epoch: epoch, mode: mode)))
    }
    guard welcome.session == session, welcome.epoch == epoch, welcome.mode == mode else {
      return effects.append(
        .disconnect(Refusal(.session, "the source welcomed us to another session")))
    }
    if hasAcceptedGo && !welcome.isHandedOff {
      return effects.append(
        .disconnect(Refusal(.session, "the source no longer knows that it has handed off")))
    }
    effects.append(.cancelTimer(.giveUp))
    switch state {
    case .ready: send(.ready(epoch: epoch), into: &effects)
    // GO is the source's to send again, ABORT as well.
    case .dialing, .opening, .discarding, .awaitingDeviceState, .loading, .filling, .prepared,
      .acceptingGo, .starting, .recordingRan, .rulingOut, .killing, .recordingAborted, .finished:
      break
    case .running: send(ranMessage(now), into: &effects)
    case .completing, .acknowledging:
      // Behind COMPLETE, RAN would be late; COMPLETE implies it.
      if state == .acknowledging { send(.complete(epoch: epoch.advanced(by: 1)), into: &effects) }
    case .aborted: send(.aborted(epoch: epoch, cause ?? Self.noCause), into: &effects)
    }
  }

  private var hasAcceptedGo: Bool {
    switch state {
    case .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging: true
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .rulingOut, .killing, .recordingAborted, .aborted, .finished:
      false
    }
  }

  private static let noCause = Refusal(.internalError, "given up in an earlier life")

  /// A source that does not know the session proves nothing: before GO that ends the session, after
  /// it the true source may still come.
  mutating func linkRefused(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling:
      abandon(reason, now, into: &effects)
    case .prepared, .acceptingGo, .starting, .recordingRan, .running, .completing,
      .acknowledging, .rulingOut, .killing, .recordingAborted, .aborted, .finished:
      break
    }
  }

  mutating func linkDown(
    isFinal: Bool, _ reason: Refusal, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    isLinkUp = false
    isLinkFinal = isLinkFinal || isFinal
    switch state {
    case .dialing:
      if isFinal { abandon(reason, now, into: &effects) }
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling, .prepared:
      if isFinal { return abandon(reason, now, into: &effects) }
      armGiveUp(now, into: &effects)
    case .acceptingGo, .starting, .recordingRan:
      // The source has handed off: the VM is let run, and parks behind RAN if it must.
      if isFinal { cause = cause ?? reason } else { armGiveUp(now, into: &effects) }
    case .running:
      if isFinal { return park(reason, into: &effects) }
      armGiveUp(now, into: &effects)
    case .completing, .rulingOut, .killing, .recordingAborted: break
    case .acknowledging:
      if isFinal { finishUnacknowledged(into: &effects) }
    case .aborted:
      if isFinal { finish(.aborted, into: &effects) }
    case .finished: break
    }
  }

  mutating func received(
    _ message: ControlMessage, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    guard isLinkUp else { return }  // Left over in the edge's queue when the link broke.
    guard isOfThisSession(message) else {
      return violated("the source named another epoch", now, into: &effects)
    }
    switch message {
    case .ping(let sequence): send(.pong(sequence: sequence), into: &effects)
    case .pong: break
    case .frozen(_, let discardPageCount, let fillsBeforeRun):
      frozen(discardPageCount, fillsBeforeRun: fillsBeforeRun, now, into: &effects)
    case .go: go(now, into: &effects)
    case .completeAcknowledged: completeAcknowledged(now, into: &effects)
    case .abort(_, let reason): abort(reason, now, into: &effects)
    case .parked(_, let reason): peerParked(reason, now, into: &effects)
    case .ready, .discarded, .prepared, .ran, .complete, .aborted:
      violated("the source sent a message of the destination", now, into: &effects)
    }
  }

  private func isOfThisSession(_ message: ControlMessage) -> Bool {
    switch message {
    case .ready(let named), .frozen(let named, _, _), .discarded(let named), .prepared(let named),
      .abort(let named, _), .aborted(let named, _), .parked(let named, _):
      named == epoch
    case .go(let named), .ran(let named, _, _), .complete(let named),
      .completeAcknowledged(let named):
      named == epoch.advanced(by: 1)
    case .ping, .pong: true
    }
  }

  private mutating func frozen(
    _ discardPageCount: PageCount, fillsBeforeRun: Bool, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .ready:
      times.frozen = now
      self.fillsBeforeRun = fillsBeforeRun
      state = .discarding
      if discardPageCount.rawValue == 0 { return discardsApplied(now, into: &effects) }
      effects.append(.discard(discardPageCount))
    case .dialing, .opening: violated("FROZEN came before READY", now, into: &effects)
    case .discarding, .awaitingDeviceState, .loading, .filling, .prepared, .acceptingGo,
      .starting, .recordingRan, .running, .completing, .acknowledging, .rulingOut, .killing,
      .recordingAborted, .aborted, .finished:
      break
    }
  }

  private mutating func go(_ now: Instant, into effects: inout EffectQueue<DestinationEffect>) {
    switch state {
    case .prepared:
      times.go = now
      state = .acceptingGo
      effects.append(.journal(.goAccepted(epoch: epoch.advanced(by: 1))))
    // Sent again after a reconnect; we have it, or will prove that we have given up.
    case .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging, .rulingOut,
      .killing,
      .recordingAborted, .finished:
      break
    case .aborted: send(.aborted(epoch: epoch, cause ?? Self.noCause), into: &effects)
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling:
      violated("GO came before PREPARED", now, into: &effects)
    }
  }

  private mutating func completeAcknowledged(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .acknowledging:
      cause = nil
      finish(.completed, into: &effects)
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .acceptingGo, .starting, .recordingRan, .running, .completing, .rulingOut,
      .killing,
      .recordingAborted, .aborted, .finished:
      violated("COMPLETE was acknowledged before it was said", now, into: &effects)
    }
  }

  private mutating func abort(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling, .prepared:
      abandon(reason, now, into: &effects)
    case .aborted: send(.aborted(epoch: epoch, cause ?? Self.noCause), into: &effects)
    case .rulingOut, .killing, .recordingAborted, .finished: break
    // A source that has said GO has no right to take it back.
    case .dialing, .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging:
      violated("ABORT came after GO", now, into: &effects)
    }
  }

  private mutating func peerParked(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    // A parked source may be handed off, so a prepared destination keeps what it has as well.
    case .prepared, .running: park(reason, into: &effects)
    case .acceptingGo, .starting, .recordingRan: cause = cause ?? reason
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling:
      abandon(reason, now, into: &effects)
    case .dialing, .completing, .acknowledging, .rulingOut, .killing, .recordingAborted, .aborted,
      .finished:
      break
    }
  }

  mutating func operatorAbort(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    let reason = Refusal(.operatorRequest, "stopped by the operator")
    switch state {
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared:
      abandon(reason, now, into: &effects)
    case .acceptingGo, .starting, .recordingRan, .running:
      if hasRefusedStop { return operatorPark(now, into: &effects) }
      hasRefusedStop = true
      effects.append(
        .refuseStop(
          Refusal(
            .operatorRequest,
            "the VM runs here and needs this side until its last page is here; stop again to "
              + "park with everything kept")))
    // On its way out already.
    case .completing, .rulingOut, .killing, .recordingAborted, .finished: break
    case .acknowledging: finishUnacknowledged(into: &effects)
    case .aborted: finish(.aborted, into: &effects)
    }
  }

  mutating func operatorPark(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    let reason = Refusal(.operatorRequest, "parked by the operator")
    switch state {
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling:
      abandon(reason, now, into: &effects)
    case .acceptingGo: decide(.park, reason)
    case .prepared, .starting, .recordingRan, .running: park(reason, into: &effects)
    case .completing, .rulingOut, .killing, .recordingAborted, .finished: break
    case .acknowledging: finishUnacknowledged(into: &effects)
    case .aborted: finish(.aborted, into: &effects)
    }
  }

  mutating func ranOut(
    _ timer: DestinationTimer, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    let reason = Refusal(.timeout, "the source was not heard of in time")
    switch (timer, state) {
    case (.giveUp, .opening), (.giveUp, .ready), (.giveUp, .discarding),
      (.giveUp, .awaitingDeviceState), (.giveUp, .loading), (.giveUp, .filling),
      (.giveUp, .prepared):
      if !isLinkUp { abandon(reason, now, into: &effects) }
    case (.giveUp, .running):
      if !isLinkUp { park(reason, into: &effects) }
    case (.linger, .acknowledging): finishUnacknowledged(into: &effects)
    case (.linger, .aborted): finish(.aborted, into: &effects)
    // Run out just before it was disarmed, or at a step that ends by itself.
    case (.giveUp, _), (.linger, _): break
    }
  }
}
