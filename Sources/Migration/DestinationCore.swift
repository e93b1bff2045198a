public import Pages
public import Wire

/// Where the destination stands. The order is that of a migration; the second group is the way out.
public enum DestinationState: UInt8, CaseIterable, Hashable, Sendable {
  /// Attached; knows no session yet.
  case dialing
  /// OPENED is being written.
  case opening
  /// READY was said; every fault is parked. Seeds of a VM that still runs may come.
  case ready
  /// Stale seeded pages are being dropped.
  case discarding
  /// Faults are answered; device state is on its way.
  case awaitingDeviceState
  /// The VMM loads device state; its faults are demands.
  case loading
  /// Loaded, and waits for the last page of the source: when FROZEN says that it is to.
  case filling
  /// PREPARED was said. Never runs by itself.
  case prepared
  /// GO came; GO_ACCEPTED is being written.
  case acceptingGo
  /// GO_ACCEPTED is durable; the VMM was told to run.
  case starting
  /// The VM runs; RAN is being written.
  case recordingRan
  /// The VM runs and pulls its pages.
  case running
  /// Every page is here; COMPLETE is being written.
  case completing
  /// COMPLETE was said; waits for the acknowledgement, which the VM does not need.
  case acknowledging

  /// GO was accepted, but the VM will not run: that is being written before anything is killed.
  case rulingOut
  /// The VMM is being killed, so that ABORTED will be true.
  case killing
  /// ABORTED is being written.
  case recordingAborted
  /// ABORTED is durable; stays to say it to a source that needs it.
  case aborted
  /// The outcome is told.
  case finished

  /// Whether the guest stands still on its way here.
  public var isHandOver: Bool {
    switch self {
    case .discarding, .awaitingDeviceState, .loading, .filling, .prepared, .acceptingGo, .starting,
      .recordingRan:
      true
    case .dialing, .opening, .ready, .running, .completing, .acknowledging, .rulingOut, .killing,
      .recordingAborted, .aborted, .finished:
      false
    }
  }
}

/// The destination's half of the hand-over: (state, event, now) → effects. Pure.
///
/// What holds, whatever happens (P1):
/// - The VMM is told to run only after GO_ACCEPTED is durable; GO alone starts it, no timer does.
/// - ABORTED is written only after the VMM was killed, and only when no vCPU can have run: before
///   GO_ACCEPTED; while it was being written (the VMM was never told to run); after it when the VMM
///   refused and is shown not running.
/// - Everything else that fails after GO_ACCEPTED parks: the VM keeps what it has.
public struct DestinationCore: Sendable {
  /// The time limits.
  public let limits: DestinationLimits
  /// The session, once the source has named it.
  public internal(set) var session: SessionID = .none
  /// The source's epoch before the hand-off; base + 1 is ours.
  public internal(set) var epoch = Epoch(rawValue: 0)
  /// How the migration is done.
  public internal(set) var mode = MigrationMode.postCopy
  /// Where it stands.
  public internal(set) var state: DestinationState
  /// What our journal proves; the hello says it. PREPARED counts in this life before it is durable.
  public internal(set) var progress = DestinationProgress.unknown
  /// When what happened.
  public internal(set) var times = DestinationTimes()

  var isLinkUp = false
  var isLinkFinal = false
  var isAllHere = false
  var isAllResident = false
  /// What FROZEN has said: nothing may be awaited from the source when PREPARED is said.
  public internal(set) var fillsBeforeRun = false
  var hasRefusedStop = false
  /// Why the session does not complete; the first cause is the one that is told.
  var cause: Refusal?
  /// What went wrong without stopping the session; told when nothing worse is.
  var remark: Refusal?
  /// GO_ACCEPTED is being written, but the VMM must not be told to run any more.
  var verdict = GoVerdict.run
  /// What a recovered core found of the VM.
  var observed: ObservedVM?
  /// The VMM is known to be gone after the VM may have run: nothing brings it back.
  var isVMLost = false

  /// What follows a durable GO_ACCEPTED, by what happened while it was being written.
  enum GoVerdict: UInt8 {
    case run
    case park
    case abort
  }

  /// A destination that has attached to its VM and knows no session. `start` begins it.
  public init(limits: DestinationLimits = DestinationLimits()) {
    self.limits = limits
    self.state = .dialing
  }

  /// Takes up a session where its durable records leave it; nil when they hold no session.
  ///
  /// Before PREPARED a restarted worker cannot know how far the VMM's load has come: it aborts.
  public init?(
    recovering records: [DestinationRecord], vm: ObservedVM,
    limits: DestinationLimits = DestinationLimits()
  ) {
    guard case .opened(let session, let epoch, let mode)? = records.first else { return nil }
    self.init(limits: limits)
    self.session = session
    self.epoch = epoch
    self.mode = mode
    observed = vm
    progress = .preparing
    state = .killing
    for record in records.dropFirst() {
      switch record {
      case .opened: return nil
      case .prepared:
        progress = .prepared
        state = vm == .gone ? .killing : .prepared
      case .goAccepted:
        progress = .goAccepted
        state = .starting
      case .runRuledOut: state = .killing
      case .ran:
        progress = .ran
        state = .running
      case .complete:
        progress = .complete
        state = .acknowledging
      case .aborted(_, let reason):
        progress = .aborted
        state = .aborted
        cause = reason
      }
    }
  }

  /// Begins a new session, or goes on with a recovered one. Call it once, before any event.
  public mutating func start(now: Instant, into effects: inout EffectQueue<DestinationEffect>) {
    switch state {
    case .dialing: effects.append(.dial)
    case .killing:
      effects.append(.dial)
      abandon(
        Refusal(.internalError, "the destination's process was restarted before the VM ran"),
        now, into: &effects)
    case .prepared:
      if observed == .running {
        return park(
          Refusal(.vmm, "the VM was found running though GO was never accepted"), into: &effects)
      }
      effects.append(.dial)
      effects.append(.beginFaults)
      armGiveUp(now, into: &effects)
    case .starting, .running:
      if observed == .gone {
        return lose(Refusal(.vmm, "the VM's process was found gone"), into: &effects)
      }
      effects.append(.dial)
      effects.append(.beginFaults)
      // A run command may have been lost with the process that gave it.
      if state == .starting || observed == .stopped { effects.append(.runVM) }
      armGiveUp(now, into: &effects)
    case .acknowledging:
      isAllResident = true
      effects.append(.dial)
      effects.append(.unregister)
      arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
    case .aborted:
      effects.append(.dial)
      arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
    case .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling, .acceptingGo,
      .recordingRan, .completing, .rulingOut, .recordingAborted, .finished:
      invariantBroken("a core is started once, in a state that its journal can hold")
    }
  }

  /// One event; its effects are appended in the order in which they are to be carried out.
  public mutating func handle(
    _ event: DestinationEvent, now: Instant, into effects: inout EffectQueue<DestinationEffect>
  ) {
    // Whatever was under way when the outcome was told may still be answered.
    if state == .finished { return }
    switch event {
    case .linkUp(let welcome): linkUp(welcome, now, into: &effects)
    case .linkRefused(let reason): linkRefused(reason, now, into: &effects)
    case .linkDown(let isFinal, let reason):
      linkDown(isFinal: isFinal, reason, now, into: &effects)
    case .received(let message): received(message, now, into: &effects)
    case .discardsApplied: discardsApplied(now, into: &effects)
    case .discardFailed(let reason): failed(reason, now, into: &effects)
    case .deviceStateReceived: deviceStateReceived(now, into: &effects)
    case .vmm(let event): vmm(event, now, into: &effects)
    case .journal(.durable(let record)): durable(record, now, into: &effects)
    case .journal(.failed(let record, _, let reason)):
      journalFailed(record, reason, now, into: &effects)
    case .allHere: allHere(now, into: &effects)
    case .allResident: allResident(now, into: &effects)
    case .memoryFailed(let reason): failed(reason, now, into: &effects)
    case .operatorAbort: operatorAbort(now, into: &effects)
    case .operatorPark: operatorPark(now, into: &effects)
    case .timer(let timer): ranOut(timer, now, into: &effects)
    }
  }
}
