internal import Pages
internal import Wire

/// What comes from our own host: seeder, VMM, journal, memory, operator, timers.
extension SourceCore {
  mutating func seeded(
    _ reason: SwitchReason, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    // Overtaken by the loss of the link: the rounds go on over the next one.
    guard state == .seeding else { return }
    fillsBeforeRun = mode == .preCopy && reason == .fits
    freeze(now, into: &effects)
  }

  mutating func seedingFailed(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch state {
    case .preparing, .seeding: abandon(reason, now, into: &effects)
    // The last look at what was written is part of the pause, and fails with it.
    case .opening, .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff, .handedOff,
      .serving, .completing, .lingering, .revoking, .recordingResume, .resuming, .awaitingAborted,
      .finished:
      break
    }
  }

  /// The VM does not run, though nothing was handed over: it is resumed as behind the freeze.
  mutating func seedingLeftPaused(
    _ reason: Refusal, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch state {
    case .preparing, .seeding:
      cause = cause ?? reason
      state = .resuming
      effects.append(.cancelTimer(.giveUp))
      effects.append(.endSeeding)
      effects.append(.resumeVM)
      sendAbort(into: &effects)
    // Given up in the middle of the look.
    case .awaitingAborted:
      state = .resuming
      effects.append(.cancelTimer(.linger))
      effects.append(.resumeVM)
    case .opening, .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff, .handedOff,
      .serving, .completing, .lingering, .revoking, .recordingResume, .resuming:
      invariantBroken("the rounds have ended before the VM is paused or resumed otherwise")
    case .finished: break
    }
  }

  /// Stops the VM: the blackout begins.
  mutating func freeze(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    state = .pausing
    times.freeze = now
    effects.append(.pauseVM)
    if let nanoseconds = limits.handOverNanoseconds {
      arm(.handOver, after: nanoseconds, now, into: &effects)
    }
  }

  mutating func vmm(
    _ event: SourceVMMEvent, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch event {
    case .paused(let discardPageCount, let scanNanoseconds):
      times.lastScanNanoseconds = scanNanoseconds
      paused(discardPageCount, now, into: &effects)
    case .pauseFailed(let reason):
      guard isAnswer(to: .pausing) else { return }
      abandon(reason, now, into: &effects)
    case .deviceStateSaved: deviceStateSaved(now, into: &effects)
    case .deviceStateSaveFailed(let reason):
      if state == .preparedUnsaved { return abandon(reason, now, into: &effects) }
      guard isAnswer(to: .saving) else { return }
      abandon(reason, now, into: &effects)
    case .resumed:
      invariant(state == .resuming, "the VM resumes only when it was told to")
      settle(now, into: &effects)
    case .resumeFailed(let reason):
      invariant(state == .resuming, "the VM resumes only when it was told to")
      cause = Refusal(reason.code, "the source VM could not be resumed: \(reason.reason)")
      finish(.parked, into: &effects)
    case .disabled: isDisabled = true
    case .disableFailed(let reason):
      // The VM stays stopped; the migration goes on, and the report says what is left to do.
      remark = Refusal(.vmm, "the source VM is stopped but not disabled: \(reason.reason)")
    case .resumedByItself: resumedByItself(now, into: &effects)
    }
  }

  /// Whether the VMM's answer is awaited; one that was overtaken by a resume means nothing more.
  private func isAnswer(to awaiting: SourceState) -> Bool {
    if state == .resuming { return false }
    invariant(state == awaiting, "the VMM answers only what it was asked")
    return true
  }

  private mutating func paused(
    _ discardPageCount: PageCount, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    guard isAnswer(to: .pausing) else { return }
    times.paused = now
    state = .frozen
    effects.append(.beginServing)
    send(
      .frozen(
        epoch: epoch, discardPageCount: discardPageCount, fillsBeforeRun: fillsBeforeRun),
      into: &effects)
  }

  private mutating func deviceStateSaved(
    _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    if state == .preparedUnsaved {
      times.saved = now
      beginFilling(into: &effects)
      return handOff(into: &effects)
    }
    guard isAnswer(to: .saving) else { return }
    times.saved = now
    state = .saved
    beginFilling(into: &effects)
  }

  /// What is to be there before the VM runs is pushed behind the device state, which it would hold
  /// up, and so behind the discards: a page that overtook those on another connection would be
  /// dropped as a stale seed.
  private func beginFilling(into effects: inout EffectQueue<SourceEffect>) {
    if fillsBeforeRun { effects.append(.beginPush) }
  }

  /// Both conditions hold: from here the VM is not resumed while HANDED_OFF may be durable.
  mutating func handOff(into effects: inout EffectQueue<SourceEffect>) {
    state = .handingOff
    effects.append(.cancelTimer(.handOver))
    mayHaveHandedOff = true
    effects.append(.journal(.handedOff(epoch: epoch.advanced(by: 1))))
  }

  private mutating func resumedByItself(
    _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    let reason = Refusal(.vmm, "the source VM resumed by itself before the hand-off")
    switch state {
    case .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      // Told to resume all the same: the VMM may be in the middle of our own pause.
      abandon(reason, now, into: &effects)
    case .handingOff:
      decide(.resumedByItself, reason)
    case .revoking: undo(reason, into: &effects)
    case .handedOff, .serving, .completing: contain(into: &effects)
    case .lingering: effects.append(.disableVM)
    case .opening, .preparing, .seeding, .recordingResume, .resuming, .awaitingAborted, .finished:
      break
    }
  }

  mutating func durable(
    _ record: SourceRecord, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch record {
    case .opened:
      invariant(state == .opening, "OPENED is written once")
      state = .preparing
      effects.append(.listen)
    case .handedOff:
      invariant(state == .handingOff, "HANDED_OFF is written once")
      times.handedOff = now
      handedOff(now, into: &effects)
    case .resumed:
      invariant(state == .recordingResume, "RESUMED is written once")
      state = .resuming
      effects.append(.endServing)
      effects.append(.resumeVM)
      sendAbort(into: &effects)
    case .completed:
      invariant(state == .completing, "COMPLETED is written once")
      state = .lingering
      send(.completeAcknowledged(epoch: epoch.advanced(by: 1)), into: &effects)
      effects.append(.releaseMemory)
      if isLinkFinal { return finish(.completed, into: &effects) }
      arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
    case .ranAcknowledged, .fenced, .aborted:
      invariantBroken("the journal answers only for records that are waited for")
    }
  }

  private mutating func handedOff(
    _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch verdict {
    case .go:
      state = .handedOff
      send(.go(epoch: epoch.advanced(by: 1)), into: &effects)
      if !isLinkUp { armGiveUp(now, into: &effects) }
    case .park:
      state = .handedOff
      park(Refusal(.internalError, "parked while handing off"), into: &effects)
    case .peerAborted, .resumedByItself:
      undo(Refusal(.internalError, "undone while handing off"), into: &effects)
    }
  }

  mutating func journalFailed(
    _ record: SourceRecord, mayBeDurable: Bool, _ reason: Refusal, _ now: Instant,
    into effects: inout EffectQueue<SourceEffect>
  ) {
    switch record {
    case .opened:
      invariant(state == .opening, "OPENED is written once")
      abandon(reason, now, into: &effects)
    case .handedOff:
      invariant(state == .handingOff, "HANDED_OFF is written once")
      if !mayBeDurable { return abandon(reason, now, into: &effects) }
      cause = cause ?? reason
      switch verdict {
      case .go:
        // A later life may read the record and send GO, so the destination must have given up
        // before the VM may run. GO itself is not sent either: it needs a record that is durable.
        state = .revoking
        sendAbort(into: &effects)
        if !isLinkUp { armGiveUp(now, into: &effects) }
      case .park: park(reason, into: &effects)
      case .peerAborted, .resumedByItself: undo(reason, into: &effects)
      }
    case .resumed:
      invariant(state == .recordingResume, "RESUMED is written once")
      cause = reason
      park(reason, into: &effects)
    case .completed:
      invariant(state == .completing, "COMPLETED is written once")
      park(reason, into: &effects)
    case .ranAcknowledged, .fenced, .aborted:
      invariantBroken("the journal answers only for records that are waited for")
    }
  }

  mutating func memoryLost(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    switch state {
    case .opening, .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      abandon(reason, now, into: &effects)
    case .handingOff: decide(.park, reason)
    case .handedOff, .serving, .revoking: park(reason, into: &effects)
    // The destination has every page, or the VM runs here again and nothing is served.
    case .completing, .lingering, .recordingResume, .resuming, .awaitingAborted, .finished: break
    }
  }

  /// Notes what is to follow HANDED_OFF; what forbids GO for ever outranks what only parks.
  mutating func decide(_ wanted: HandOffVerdict, _ reason: Refusal) {
    guard wanted.rawValue > verdict.rawValue else { return }
    verdict = wanted
    cause = reason
  }

  mutating func operatorAbort(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    let reason = Refusal(.operatorRequest, "stopped by the operator")
    switch state {
    case .opening, .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      abandon(reason, now, into: &effects)
    case .handingOff, .handedOff, .serving, .revoking:
      if hasRefusedStop { return operatorPark(now, into: &effects) }
      hasRefusedStop = true
      effects.append(
        .refuseStop(
          Refusal(
            .operatorRequest,
            "the VM is handed off and needs this side until its last page has moved; stop again "
              + "to park with everything kept")))
    // On its way out already.
    case .completing, .recordingResume, .resuming, .finished: break
    case .awaitingAborted: finish(.aborted, into: &effects)
    case .lingering: finish(.completed, into: &effects)
    }
  }

  mutating func operatorPark(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    let reason = Refusal(.operatorRequest, "parked by the operator")
    switch state {
    case .opening, .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      abandon(reason, now, into: &effects)
    case .handingOff: decide(.park, reason)
    case .handedOff, .serving, .revoking: park(reason, into: &effects)
    case .completing, .recordingResume, .resuming, .finished: break
    case .awaitingAborted: finish(.aborted, into: &effects)
    case .lingering: finish(.completed, into: &effects)
    }
  }

  mutating func ranOut(
    _ timer: SourceTimer, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    let reason: Refusal
    switch timer {
    case .handOver:
      reason = Refusal(.timeout, "the hand-over took too long with the VM stopped")
    case .linger, .giveUp: reason = Refusal(.timeout, "the destination was not heard of in time")
    }
    switch (timer, state) {
    case (.handOver, .pausing), (.handOver, .frozen), (.handOver, .saving), (.handOver, .saved),
      (.handOver, .preparedUnsaved):
      abandon(reason, now, into: &effects)
    case (.linger, .awaitingAborted): finish(.aborted, into: &effects)
    case (.linger, .lingering): finish(.completed, into: &effects)
    case (.giveUp, .preparing):
      if !isLinkUp { abandon(reason, now, into: &effects) }
    case (.giveUp, .handedOff), (.giveUp, .serving), (.giveUp, .revoking):
      if !isLinkUp { park(reason, into: &effects) }
    // Run out just before it was disarmed.
    case (.handOver, _), (.linger, _), (.giveUp, _): break
    }
  }
}
