internal import Pages
internal import Wire

/// The ways out: abandon before the hand-off, undo with proof, park, contain, finish.
extension SourceCore {
  /// Ends the session before the hand-off: the VM runs on. Legal only until `preparedUnsaved`, and
  /// from `handingOff` when HANDED_OFF is known not to be durable.
  mutating func abandon(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    cause = cause ?? reason
    switch state {
    case .opening: finish(.refused, into: &effects)
    case .preparing, .seeding:
      if mode.hasSeedRounds { effects.append(.endSeeding) }
      sendAbort(into: &effects)
      settle(now, into: &effects)
    case .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff:
      state = .resuming
      effects.append(.cancelTimer(.handOver))
      effects.append(.endServing)
      if mode.hasSeedRounds { effects.append(.endSeeding) }
      effects.append(.resumeVM)
      sendAbort(into: &effects)
    case .handedOff, .serving, .completing, .lingering, .revoking, .recordingResume, .resuming,
      .awaitingAborted, .finished:
      invariantBroken("a session is abandoned only before its hand-off")
    }
  }

  /// The destination never ran and never will, or GO never left: RESUMED first, then the VM.
  mutating func undo(_ reason: Refusal, into effects: inout EffectQueue<SourceEffect>) {
    cause = cause ?? reason
    state = .recordingResume
    effects.append(.cancelTimer(.giveUp))
    effects.append(.journal(.resumed(epoch: epoch.advanced(by: 2))))
  }

  /// The same where only a copy of the memory is served: there is no VM to undo it for. The host
  /// that has the VM is not told by us, so what is on record here stays as it is.
  mutating func leaveUndoing(_ reason: Refusal, into effects: inout EffectQueue<SourceEffect>) {
    cause = nil
    park(
      Refusal(
        reason.code,
        "the destination never ran the VM and never will, and there is no VM here that could: "
          + reason.reason), into: &effects)
  }

  /// The VM runs here; waits a while to tell the destination, if there is one.
  mutating func settle(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    effects.append(.journalLazily(.aborted(epoch: epoch)))
    if hasPeerAborted || isLinkFinal || !hasHadPeer { return finish(.aborted, into: &effects) }
    state = .awaitingAborted
    arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
  }

  /// Stops here with everything kept.
  mutating func park(_ reason: Refusal, into effects: inout EffectQueue<SourceEffect>) {
    cause = cause ?? reason
    if let cause { send(.parked(epoch: epoch, cause), into: &effects) }
    finish(.parked, into: &effects)
  }

  /// The VM runs here although the destination may: stop it for good before anything else. What it
  /// wrote meanwhile is no part of the frozen image, so nothing more is served from it.
  mutating func contain(into effects: inout EffectQueue<SourceEffect>) {
    effects.append(.endServing)
    effects.append(.disableVM)
    park(
      Refusal(
        .vmm,
        "the source VM was found running after the hand-off and was stopped; its memory is no "
          + "longer the frozen image"), into: &effects)
  }

  /// Tells the outcome.
  mutating func finish(_ ending: Ending, into effects: inout EffectQueue<SourceEffect>) {
    state = .finished
    var source: HostState
    let destination: HostState
    switch ending {
    case .completed:
      source = isDisabled ? .disabled : .stopped
      destination = .runs
    case .refused:
      source = .runs
      destination = .untouched
    case .aborted:
      source = .runs
      destination = hasPeerAborted ? .killed : hasHadPeer ? .unknown : .untouched
    case .parked:
      source = isDisabled ? .disabled : .stopped
      destination =
        hasPeerRun
        ? .runs : hasPeerAborted ? .ruledOut : mayHaveHandedOff ? .mayRun : .unknown
    }
    if isCopy { source = .absent }
    effects.append(
      .finish(
        Outcome(ending: ending, reason: cause ?? remark, source: source, destination: destination)))
  }

  /// Tells the destination to give up, if it can be reached. Harmless when it has already.
  mutating func sendAbort(into effects: inout EffectQueue<SourceEffect>) {
    guard !hasPeerAborted, let cause else { return }
    send(.abort(epoch: epoch, cause), into: &effects)
  }

  /// Sends when there is a link; whatever must arrive is sent again at the next `linkUp`.
  mutating func send(_ message: ControlMessage, into effects: inout EffectQueue<SourceEffect>) {
    if isLinkUp { effects.append(.send(message)) }
  }

  /// A peer that breaks the protocol: before the hand-off the session ends, later only its link.
  mutating func violated(
    _ rule: String, _ now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    let refusal = Refusal(.protocolViolation, rule)
    switch state {
    case .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved:
      abandon(refusal, now, into: &effects)
    case .opening, .handingOff, .handedOff, .serving, .completing, .lingering, .revoking,
      .recordingResume, .resuming, .awaitingAborted, .finished:
      effects.append(.disconnect(refusal))
    }
  }

  func arm(
    _ timer: SourceTimer, after nanoseconds: UInt64, _ now: Instant,
    into effects: inout EffectQueue<SourceEffect>
  ) {
    effects.append(.setTimer(timer, at: now.advanced(byNanoseconds: nanoseconds)))
  }

  func armGiveUp(_ now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    guard let nanoseconds = limits.giveUpNanoseconds else { return }
    arm(.giveUp, after: nanoseconds, now, into: &effects)
  }
}
