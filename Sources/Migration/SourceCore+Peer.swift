internal import Pages
internal import Wire

/// What comes from the destination: links and messages.
extension SourceCore {
  mutating func linkUp(
    _ progress: DestinationProgress, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    invariant(!isLinkUp, "a new link comes only after the old one was called down")
    invariant(state != .opening, "nobody dials before OPENED is durable")
    isLinkUp = true
    hasHadPeer = true
    effects.append(.cancelTimer(.giveUp))
    switch (state, progress) {
    case (.preparing, .unknown), (.preparing, .preparing): break
    case (.preparing, .aborted): peerAborted(Self.abortedElsewhere, now, into: &effects)

    case (.handingOff, .prepared): break
    case (.handingOff, .aborted): peerAborted(Self.abortedElsewhere, now, into: &effects)

    // The one message that may have been lost; the destination takes it once.
    case (.handedOff, .prepared):
      send(.go(epoch: epoch.advanced(by: 1)), into: &effects)
    case (.handedOff, .aborted), (.revoking, .aborted):
      peerAborted(Self.abortedElsewhere, now, into: &effects)
    // Its journal proves it: no message could prove more, and its VMM may be gone by now.
    case (.handedOff, .complete), (.serving, .complete): complete(now, into: &effects)
    case (.handedOff, .goAccepted), (.handedOff, .ran), (.serving, .goAccepted), (.serving, .ran),
      (.completing, .complete):
      break  // It says again what we may have missed.
    case (.revoking, .preparing), (.revoking, .prepared): sendAbort(into: &effects)
    case (.lingering, .complete):
      send(.completeAcknowledged(epoch: epoch.advanced(by: 1)), into: &effects)

    case (.recordingResume, .aborted), (.resuming, .aborted): hasPeerAborted = true
    case (.recordingResume, .preparing), (.recordingResume, .prepared), (.resuming, .preparing),
      (.resuming, .prepared), (.awaitingAborted, .preparing), (.awaitingAborted, .prepared):
      sendAbort(into: &effects)
    case (.awaitingAborted, .aborted): peerAborted(Self.abortedElsewhere, now, into: &effects)
    // It forgot everything before the hand-off: there is nothing to undo, and GO never left.
    case (.awaitingAborted, .unknown): finish(.aborted, into: &effects)

    // What it knows does not fit what we have told it: not the peer of this session, or one
    // without its journal. Never proof of anything.
    case (.preparing, _), (.handingOff, _), (.handedOff, _), (.serving, _), (.completing, _),
      (.lingering, _), (.revoking, _), (.recordingResume, _), (.resuming, _),
      (.awaitingAborted, _):
      effects.append(
        .disconnect(
          Refusal(.session, "the destination's journal does not fit this session's state")))
    case (.opening, _), (.seeding, _), (.pausing, _), (.frozen, _), (.saving, _), (.saved, _),
      (.preparedUnsaved, _), (.finished, _):
      invariantBroken("a frozen source does not outlive its link before the hand-off")
    }
  }

  private static let abortedElsewhere = Refusal(.vmm, "the destination has given up")

  mutating func linkDown(
    isFinal: Bool, _ reason: Refusal, _ now: Instant,
    into effects: inout EffectQueue<SourceEffect>
  ) {
    isLinkUp = false
    isLinkFinal = isLinkFinal || isFinal
    switch state {
    case .opening: break
    case .preparing, .seeding:
      if isFinal { return abandon(reason, now, into: &effects) }
      // The rounds go on when the destination is back. It does not wait for ever, and nor do we:
      // nobody else is let in meanwhile.
      state = .preparing
      if times.seeding != nil {
        arm(.giveUp, after: limits.giveUpRoundsNanoseconds, now, into: &effects)
      }
    case .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      abandon(reason, now, into: &effects)
    case .handingOff:
      if isFinal { decide(.park, reason) }
    case .handedOff, .serving, .revoking:
      if isFinal { return park(reason, into: &effects) }
      armGiveUp(now, into: &effects)
    case .completing, .recordingResume, .resuming: break
    case .awaitingAborted:
      if isFinal { finish(.aborted, into: &effects) }
    case .lingering:
      if isFinal { finish(.completed, into: &effects) }
    case .finished: break
    }
  }

  mutating func received(
    _ message: ControlMessage, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    guard isLinkUp else { return }  // Left over in the edge's queue when the link broke.
    guard isOfThisSession(message) else {
      return violated("the destination named another epoch", now, into: &effects)
    }
    switch message {
    case .ping(let sequence): send(.pong(sequence: sequence), into: &effects)
    case .pong: break
    case .ready: ready(now, into: &effects)
    case .discarded: discarded(now, into: &effects)
    case .prepared: prepared(now, into: &effects)
    case .ran(_, let nanosecondsSinceStart, let pause):
      ran(nanosecondsSinceStart, pause, now, into: &effects)
    case .complete: complete(now, into: &effects)
    case .aborted(_, let reason): peerAborted(reason, now, into: &effects)
    case .parked(_, let reason): peerParked(reason, now, into: &effects)
    case .frozen, .go, .completeAcknowledged, .abort:
      violated("the destination sent a message of the source", now, into: &effects)
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

  private mutating func ready(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    switch state {
    case .preparing:
      guard mode.hasSeedRounds else { return freeze(now, into: &effects) }
      state = .seeding
      times.seeding = times.seeding ?? now
      effects.append(.beginSeeding)
    // Said again after a reconnect, or late.
    case .opening, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff,
      .handedOff,
      .serving, .completing, .lingering, .revoking, .recordingResume, .resuming, .awaitingAborted,
      .finished:
      break
    }
  }

  private mutating func discarded(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    switch state {
    case .frozen:
      times.discarded = now
      state = .saving
      effects.append(.saveDeviceState)
    case .opening, .preparing, .seeding, .pausing:
      violated("DISCARDED came before FROZEN", now, into: &effects)
    case .saving, .saved, .preparedUnsaved, .handingOff, .handedOff, .serving, .completing,
      .lingering, .revoking, .recordingResume, .resuming, .awaitingAborted, .finished:
      break
    }
  }

  private mutating func prepared(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    switch state {
    case .saving:
      times.prepared = now
      state = .preparedUnsaved
    case .saved:
      times.prepared = now
      handOff(into: &effects)
    case .opening, .preparing, .seeding, .pausing, .frozen:
      violated("PREPARED came before any device state", now, into: &effects)
    case .preparedUnsaved, .handingOff, .handedOff, .serving, .completing, .lingering, .revoking,
      .recordingResume, .resuming, .awaitingAborted, .finished:
      break
    }
  }

  private mutating func ran(
    _ nanosecondsSinceStart: UInt64, _ pause: PauseParts, _ now: Instant,
    into effects: inout EffectQueue<SourceEffect>
  ) {
    switch state {
    case .handedOff:
      times.ran = now
      times.nanosecondsFromStartToRan = nanosecondsSinceStart
      times.destinationPause = pause
      // Not with GO: until the guest runs, the link and the processors are for what it waits for.
      if !fillsBeforeRun { effects.append(.beginPush) }
      destinationRuns(into: &effects)
    case .serving, .completing, .lingering, .finished: break
    case .opening, .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved,
      .handingOff, .revoking, .recordingResume, .resuming, .awaitingAborted:
      violated("RAN came without GO", now, into: &effects)
    }
  }

  /// From here nothing undoes the hand-off: the source VM is made unable to run.
  private mutating func destinationRuns(into effects: inout EffectQueue<SourceEffect>) {
    state = .serving
    hasPeerRun = true
    effects.append(.disableVM)
    effects.append(.journalLazily(.ranAcknowledged(epoch: epoch.advanced(by: 1))))
  }

  private mutating func complete(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    switch state {
    case .handedOff, .serving:
      // COMPLETE implies RAN, which a broken link may have swallowed.
      if state == .handedOff { destinationRuns(into: &effects) }
      times.complete = now
      state = .completing
      effects.append(.journal(.completed(epoch: epoch.advanced(by: 1))))
    case .lingering:
      send(.completeAcknowledged(epoch: epoch.advanced(by: 1)), into: &effects)
    case .completing, .finished: break
    case .opening, .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved,
      .handingOff, .revoking, .recordingResume, .resuming, .awaitingAborted:
      violated("COMPLETE came without GO", now, into: &effects)
    }
  }

  /// The destination's durable proof that the VM never ran there and never will.
  private mutating func peerAborted(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch state {
    case .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      hasPeerAborted = true
      abandon(reason, now, into: &effects)
    case .handingOff:
      hasPeerAborted = true
      decide(.peerAborted, reason)
    case .handedOff, .revoking:
      hasPeerAborted = true
      if isCopy { return leaveUndoing(reason, into: &effects) }
      undo(reason, into: &effects)
    case .recordingResume, .resuming: hasPeerAborted = true
    case .awaitingAborted:
      hasPeerAborted = true
      finish(.aborted, into: &effects)
    case .opening, .serving, .completing, .lingering, .finished:
      violated("ABORTED came after RAN", now, into: &effects)
    }
  }

  private mutating func peerParked(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch state {
    case .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      abandon(reason, now, into: &effects)
    case .handingOff: decide(.park, reason)
    case .handedOff, .serving, .revoking: park(reason, into: &effects)
    case .opening, .completing, .lingering, .recordingResume, .resuming, .awaitingAborted,
      .finished:
      break
    }
  }
}
