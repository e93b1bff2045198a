internal import Pages
internal import Wire

/// What comes from our own host: VMM, memory, journal, operator, timers.
extension DestinationCore {
  mutating func discardsApplied(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    if isOverrun { return }
    invariant(state == .discarding, "discards are applied only when they were asked for")
    state = .awaitingDeviceState
    effects.append(.beginFaults)
    send(.discarded(epoch: epoch), into: &effects)
  }

  mutating func deviceStateReceived(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .awaitingDeviceState:
      times.deviceState = now
      state = .loading
      effects.append(.loadDeviceState)
    case .rulingOut, .killing, .recordingAborted, .aborted, .finished: break
    // Loading reads guest memory, so it must not begin before the discards are applied (P3).
    case .dialing, .opening, .ready, .discarding:
      violated("device state came before DISCARDED", now, into: &effects)
    case .loading, .filling, .prepared, .acceptingGo, .starting, .recordingRan, .running,
      .completing, .acknowledging:
      violated("device state came twice", now, into: &effects)
    }
  }

  /// Whether the session is being aborted, so that answers to earlier commands mean nothing more.
  private var isOverrun: Bool {
    switch state {
    case .rulingOut, .killing, .recordingAborted, .aborted, .finished: true
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging:
      false
    }
  }

  mutating func vmm(
    _ event: DestinationVMMEvent, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch event {
    case .loaded:
      if isOverrun { return }
      invariant(state == .loading, "the VMM loads only what it was told to")
      times.loaded = now
      if fillsBeforeRun && !isAllHere {
        state = .filling
      } else {
        sayPrepared(now, into: &effects)
      }
    case .loadFailed(let reason):
      if isOverrun { return }
      invariant(state == .loading, "the VMM loads only what it was told to")
      abandon(reason, now, into: &effects)
    case .running(let since):
      // A recovered core in `running` repeats the command; its answer is no news.
      if state != .starting { return }
      times.running = since
      state = .recordingRan
      effects.append(.journal(.ran(epoch: epoch.advanced(by: 1))))
    case .runRefused(let isShownNotRunning, let reason):
      runRefused(isShownNotRunning: isShownNotRunning, reason, now, into: &effects)
    case .killed:
      invariant(state == .killing, "the VMM is killed only when it was told to")
      state = .recordingAborted
      effects.append(.journal(.aborted(epoch: epoch, provenCause)))
    case .killFailed(let reason):
      invariant(state == .killing, "the VMM is killed only when it was told to")
      cause = Refusal(reason.code, "the destination VM could not be killed: \(reason.reason)")
      park(reason, into: &effects)
    case .died(let reason): died(reason, now, into: &effects)
    }
  }

  private var provenCause: Refusal {
    cause ?? Refusal(.internalError, "the session was given up without a recorded cause")
  }

  private mutating func runRefused(
    isShownNotRunning: Bool, _ reason: Refusal, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    // A VM that has run before (a recovered core repeats the command) may never be aborted.
    if state == .running { return park(reason, into: &effects) }
    invariant(state == .starting, "the VMM refuses only what it was told to do")
    // An earlier life may have let it run, so only the life that accepted GO can rule that out.
    if isShownNotRunning && observed == nil {
      abandon(reason, now, into: &effects)
    } else {
      park(reason, into: &effects)
    }
  }

  private mutating func died(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared:
      abandon(reason, now, into: &effects)
    case .acceptingGo: decide(.abort, reason)
    case .starting, .recordingRan, .running, .completing: lose(reason, into: &effects)
    // All its pages were here: it died of its own, and the migration is done.
    case .acknowledging: remark = reason
    case .rulingOut, .killing, .recordingAborted, .aborted, .finished: break
    }
  }

  /// Device state is in, and every page that has to be.
  private mutating func sayPrepared(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    state = .prepared
    progress = .prepared
    times.prepared = now
    effects.append(.journalLazily(.prepared(epoch: epoch)))
    send(.prepared(epoch: epoch), into: &effects)
  }

  mutating func allHere(_ now: Instant, into effects: inout EffectQueue<DestinationEffect>) {
    isAllHere = true
    if state == .filling { sayPrepared(now, into: &effects) }
  }

  mutating func allResident(_ now: Instant, into effects: inout EffectQueue<DestinationEffect>) {
    if !isAllResident { times.allResident = now }
    isAllResident = true
    allHere(now, into: &effects)
    switch state {
    case .running: recordComplete(into: &effects)
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .acceptingGo, .starting, .recordingRan, .completing, .acknowledging, .rulingOut,
      .killing, .recordingAborted, .aborted, .finished:
      break
    }
  }

  private mutating func recordComplete(into effects: inout EffectQueue<DestinationEffect>) {
    state = .completing
    effects.append(.journal(.complete(epoch: epoch.advanced(by: 1))))
  }

  mutating func durable(
    _ record: DestinationRecord, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch record {
    case .opened:
      progress = .preparing
      if state == .opening {
        state = .ready
        send(.ready(epoch: epoch), into: &effects)
      } else {
        invariant(isOverrun, "OPENED is written once")
      }
    case .goAccepted:
      invariant(state == .acceptingGo, "GO_ACCEPTED is written once")
      times.goAccepted = now
      progress = .goAccepted
      switch verdict {
      case .run:
        state = .starting
        effects.append(.runVM)
      case .park:
        park(Refusal(.internalError, "parked while accepting GO"), into: &effects)
      case .abort:
        abandon(provenCause, now, into: &effects)
      }
    case .runRuledOut:
      invariant(state == .rulingOut, "the verdict on a run is written once")
      state = .killing
      effects.append(.killVM)
    case .ran:
      invariant(state == .recordingRan, "RAN is written once")
      progress = .ran
      sayRan(now, into: &effects)
    case .complete:
      invariant(state == .completing, "COMPLETE is written once")
      progress = .complete
      state = .acknowledging
      effects.append(.cancelTimer(.giveUp))
      effects.append(.unregister)
      send(.complete(epoch: epoch.advanced(by: 1)), into: &effects)
      if isLinkFinal { return finishUnacknowledged(into: &effects) }
      arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
    case .aborted:
      invariant(state == .recordingAborted, "ABORTED is written once")
      progress = .aborted
      state = .aborted
      send(.aborted(epoch: epoch, provenCause), into: &effects)
      if isLinkFinal { return finish(.aborted, into: &effects) }
      arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
    case .prepared:
      invariantBroken("the journal answers only for records that are waited for")
    }
  }

  /// The VM runs. The source learns it now or at the next link.
  private mutating func sayRan(
    _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    state = .running
    times.ran = now
    send(ranMessage(now), into: &effects)
    if isLinkFinal && !isAllResident { return park(provenCause, into: &effects) }
    if isAllResident { recordComplete(into: &effects) }
  }

  /// RAN with the time that has passed since the start, which the source takes off its downtime.
  func ranMessage(_ now: Instant) -> ControlMessage {
    .ran(
      epoch: epoch.advanced(by: 1),
      nanosecondsSinceStart: times.running.map { now.nanoseconds(since: $0) } ?? 0,
      times.pauseParts)
  }

  mutating func finishUnacknowledged(into effects: inout EffectQueue<DestinationEffect>) {
    remark =
      remark
      ?? Refusal(
        .timeout,
        "the source was not heard of after the last page; it keeps its memory until it is told")
    cause = nil
    finish(.completed, into: &effects)
  }

  mutating func journalFailed(
    _ record: DestinationRecord, _ reason: Refusal, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch record {
    case .opened:
      if isOverrun { return }
      invariant(state == .opening, "OPENED is written once")
      // Nothing was touched and nothing was said, so there is nothing to prove either.
      cause = reason
      effects.append(.disconnect(reason))
      finish(.refused, into: &effects)
    case .goAccepted:
      invariant(state == .acceptingGo, "GO_ACCEPTED is written once")
      // Not told to run, so nothing is lost: with a journal that works GO is accepted again. To
      // abort instead would take the same journal.
      if verdict == .abort {
        abandon(reason, now, into: &effects)
      } else {
        cause = reason
        park(reason, into: &effects)
      }
    case .runRuledOut:
      // Not killed yet, so a later life can still let it run.
      invariant(state == .rulingOut, "the verdict on a run is written once")
      park(reason, into: &effects)
    case .ran:
      // The VM runs, durably allowed by GO_ACCEPTED; a later life sees it running and says RAN.
      invariant(state == .recordingRan, "RAN is written once")
      remark = reason
      sayRan(now, into: &effects)
    case .complete:
      invariant(state == .completing, "COMPLETE is written once")
      park(reason, into: &effects)
    case .aborted:
      invariant(state == .recordingAborted, "ABORTED is written once")
      cause = reason
      park(reason, into: &effects)
    case .prepared:
      invariantBroken("the journal answers only for records that are waited for")
    }
  }
}
