internal import Pages
internal import Wire

/// The ways out: abandon while the VM cannot have run, park afterwards, finish.
extension DestinationCore {
  /// Kills the VMM, then proves it. Legal only while no vCPU can have run.
  mutating func abandon(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    cause = cause ?? reason
    switch state {
    case .dialing: finish(.refused, into: &effects)
    case .acceptingGo, .starting:
      state = .rulingOut
      effects.append(.cancelTimer(.giveUp))
      effects.append(.journal(.runRuledOut(epoch: epoch.advanced(by: 1))))
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling, .prepared,
      .killing:
      state = .killing
      effects.append(.cancelTimer(.giveUp))
      effects.append(.killVM)
    case .recordingRan, .running, .completing, .acknowledging, .rulingOut, .recordingAborted,
      .aborted, .finished:
      invariantBroken("a session is abandoned only while its VM cannot have run")
    }
  }

  /// The defined answer to a failure of our own host: abort while that is truthful, else park.
  mutating func failed(
    _ reason: Refusal, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    switch state {
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared:
      abandon(reason, now, into: &effects)
    // The VMM was not told to run and now never will be.
    case .acceptingGo: decide(.abort, reason)
    case .starting, .recordingRan, .running: park(reason, into: &effects)
    // Every page is here, or the memory is of no use any more.
    case .completing, .acknowledging, .rulingOut, .killing, .recordingAborted, .aborted, .finished:
      break
    }
  }

  /// Stops here with everything kept.
  mutating func park(_ reason: Refusal, into effects: inout EffectQueue<DestinationEffect>) {
    cause = cause ?? reason
    if let cause { send(.parked(epoch: epoch, cause), into: &effects) }
    finish(.parked, into: &effects)
  }

  /// The VMM is gone after the VM may have run. ABORTED would be a lie; nothing can undo it.
  mutating func lose(_ reason: Refusal, into effects: inout EffectQueue<DestinationEffect>) {
    isVMLost = true
    park(
      Refusal(
        reason.code,
        "the destination VM died after it had been let run, and cannot be brought back: "
          + reason.reason), into: &effects)
  }

  /// Tells the outcome.
  mutating func finish(_ ending: Ending, into effects: inout EffectQueue<DestinationEffect>) {
    let source: HostState
    let destination: HostState
    switch ending {
    case .completed:
      source = .disabled
      destination = .runs
    case .refused:
      source = .unknown
      destination = .untouched
    case .aborted:
      source = .unknown
      destination = .killed
    case .parked:
      source =
        progress == .goAccepted || progress == .ran || progress == .complete
        ? .stopped : .unknown
      destination = parkedState
    }
    state = .finished
    effects.append(
      .finish(
        Outcome(
          ending: ending, reason: cause ?? remark, source: source, destination: destination)))
  }

  private var parkedState: HostState {
    if isVMLost { return .killed }
    return switch state {
    case .recordingRan, .running, .completing, .acknowledging: .runs
    case .starting: .mayRun
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .acceptingGo, .rulingOut:
      .stopped
    case .killing: .unknown
    case .recordingAborted, .aborted, .finished: .killed
    }
  }

  /// Sends when there is a link; whatever must arrive is sent again at the next `linkUp`.
  mutating func send(
    _ message: ControlMessage, into effects: inout EffectQueue<DestinationEffect>
  ) {
    if isLinkUp { effects.append(.send(message)) }
  }

  /// A peer that breaks the protocol: before GO the session ends, later only its link.
  mutating func violated(
    _ rule: String, _ now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    let refusal = Refusal(.protocolViolation, rule)
    switch state {
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling, .prepared:
      abandon(refusal, now, into: &effects)
    case .dialing, .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging,
      .rulingOut, .killing, .recordingAborted, .aborted, .finished:
      effects.append(.disconnect(refusal))
    }
  }

  /// Notes what is to follow GO_ACCEPTED; the proof of never having run outranks parking.
  mutating func decide(_ wanted: GoVerdict, _ reason: Refusal) {
    guard wanted.rawValue > verdict.rawValue else { return }
    verdict = wanted
    cause = reason
  }

  func arm(
    _ timer: DestinationTimer, after nanoseconds: UInt64, _ now: Instant,
    into effects: inout EffectQueue<DestinationEffect>
  ) {
    effects.append(.setTimer(timer, at: now.advanced(byNanoseconds: nanoseconds)))
  }

  /// Before GO was accepted the wait always ends, since ending it is safe.
  func armGiveUp(_ now: Instant, into effects: inout EffectQueue<DestinationEffect>) {
    switch state {
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling, .prepared:
      arm(.giveUp, after: limits.giveUpBeforeGoNanoseconds, now, into: &effects)
    case .acceptingGo, .starting, .recordingRan, .running, .completing:
      guard let nanoseconds = limits.giveUpNanoseconds else { return }
      arm(.giveUp, after: nanoseconds, now, into: &effects)
    case .dialing, .acknowledging, .rulingOut, .killing, .recordingAborted, .aborted, .finished:
      break
    }
  }
}
