public import Pages
public import Wire

/// Where the source stands. The order is that of a migration; the second group is the way back.
public enum SourceState: UInt8, CaseIterable, Hashable, Sendable {
  /// OPENED is being written; nobody may dial yet.
  case opening
  /// The VM runs; the destination attaches.
  case preparing
  /// The VM runs; its memory is sent, round after round.
  case seeding
  /// The VM is being stopped.
  case pausing
  /// Stopped, memory final and served; the destination discards.
  case frozen
  /// Device state is on its way.
  case saving
  /// Device state is out; the destination loads it.
  case saved
  /// The destination is prepared, the VMM has not called its own part completed yet.
  case preparedUnsaved
  /// HANDED_OFF is at the journal: nobody knows whether it is durable.
  case handingOff
  /// HANDED_OFF is durable; GO is sent on every link. The destination may run.
  case handedOff
  /// RAN came: the destination runs.
  case serving
  /// COMPLETE came; COMPLETED is being written.
  case completing
  /// COMPLETED is durable; stays to acknowledge again if the acknowledgement was lost.
  case lingering

  /// The append of HANDED_OFF failed in an unknown way and GO has not left us: asks for ABORTED.
  case revoking
  /// RESUMED is being written: the destination's ABORTED is here, or GO never left and never will.
  case recordingResume
  /// The VM is being let run again.
  case resuming
  /// The VM runs; the destination is being told to give up.
  case awaitingAborted
  /// The outcome is told.
  case finished

  /// Whether the guest stands still on its way to the destination.
  public var isHandOver: Bool {
    switch self {
    case .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff, .handedOff: true
    case .opening, .preparing, .seeding, .serving, .completing, .lingering, .revoking,
      .recordingResume, .resuming, .awaitingAborted, .finished:
      false
    }
  }
}

/// The source's half of the hand-over: (state, event, now) → effects. Pure.
///
/// ```
/// opening → preparing → pausing → frozen → saving → saved or preparedUnsaved → handingOff
///             │  ⇅  ╰ seeding ▲ ╰────┴────────┴─── any failure ──╮              │ durable
///             │     rounds ───╯                                  │              │
///             ▼                                                  ▼              ▼
///        awaitingAborted ◀──────────────────────────────────  resuming      handedOff
///                                                                ▲           │     │ RAN
/// handingOff ─ unclear ─▶ revoking ─ ABORTED ─▶ recordingResume ─╯           │     ▼
///                                                     ▲────── ABORTED ───────╯  serving
///                                      lingering ◀── completing ◀── COMPLETE ──────╯
/// ```
/// Every state ends in `finished`; from `handingOff` on by parking, where nothing else is safe.
///
/// What holds, whatever happens (P1):
/// - GO is sent only in `handedOff`, which is entered only by HANDED_OFF's durability.
/// - Once HANDED_OFF was given to the journal, the VM is resumed only if the record is known not to
///   be durable, or after RESUMED(base + 2) is durable; and that is written only with the
///   destination's ABORTED in hand, or when the VM runs already by its own doing and GO never left.
/// - **The lost acknowledgement**: GO sent, no RAN, link lost. The destination runs or does not.
///   Nothing but its own word (RAN, COMPLETE, ABORTED) ends that state; no timer resumes the VM.
///
/// A peer that breaks the protocol before the hand-off ends the session (the VM runs on); after it,
/// its link is closed and the session waits for the true one. An impossible answer of our own edge
/// stops the process.
public struct SourceCore: Sendable {
  /// The session.
  public let session: SessionID
  /// The epoch before the hand-off; base + 1 is the destination's, base + 2 a resumed source's.
  public let epoch: Epoch
  /// How the migration is done.
  public let mode: MigrationMode
  /// The time limits.
  public let limits: SourceLimits
  /// Where it stands.
  public internal(set) var state: SourceState
  /// When what happened.
  public internal(set) var times = SourceTimes()

  var isLinkUp = false
  var isLinkFinal = false
  var hasHadPeer = false
  var hasPeerAborted = false
  var hasPeerRun = false
  var isDisabled = false
  var hasRefusedStop = false
  /// Why the session does not complete; the first cause is the one that is told.
  var cause: Refusal?
  /// What went wrong without stopping the session; told when nothing worse is.
  var remark: Refusal?
  /// What is to follow once the fate of HANDED_OFF is known.
  var verdict = HandOffVerdict.go
  /// A recovered core in which the VM was found running behind a durable HANDED_OFF.
  var isFoundRunning = false
  /// Only a copy of the frozen memory is here, no VM.
  var isCopy = false
  /// Everything is pushed before the VM runs at the destination, and not behind GO.
  var fillsBeforeRun: Bool
  /// HANDED_OFF was given to the journal: from here on the destination may run, until it is proven
  /// that it did not.
  var mayHaveHandedOff = false

  /// What follows a durable HANDED_OFF, by what happened while it was being written.
  enum HandOffVerdict: UInt8 {
    case go
    /// Go on with everything kept, GO unsent.
    case park
    /// The destination will never run: undo.
    case peerAborted
    /// The memory is the frozen one no more: GO must never be sent.
    case resumedByItself
  }

  /// A new session. `start` begins it.
  public init(
    session: SessionID, epoch: Epoch, mode: MigrationMode, limits: SourceLimits = SourceLimits()
  ) {
    self.session = session
    self.epoch = epoch
    self.mode = mode
    self.limits = limits
    self.state = .opening
    fillsBeforeRun = mode == .quick
  }

  /// Takes up a session where its durable records leave it; nil when they hold no session.
  ///
  /// Without HANDED_OFF the VM is let run again. With it, GO may have been sent in an earlier life.
  ///
  /// - Parameter isCopy: only a copy of the frozen memory is served here, and the VM stands on
  ///   another host: nothing that happens here lets it run.
  public init?(
    recovering records: [SourceRecord], vm: ObservedVM, limits: SourceLimits = SourceLimits(),
    isCopy: Bool = false
  ) {
    guard case .opened(let session, let epoch, let mode)? = records.first else { return nil }
    self.init(session: session, epoch: epoch, mode: mode, limits: limits)
    self.isCopy = isCopy
    hasHadPeer = true
    state = .resuming
    cause = Refusal(.internalError, "the source's process was restarted before the hand-off")
    for record in records.dropFirst() {
      switch record {
      case .opened: return nil
      case .handedOff:
        state = .handedOff
        mayHaveHandedOff = true
        cause = nil
      case .ranAcknowledged:
        state = .serving
        hasPeerRun = true
      case .resumed, .fenced:
        state = .resuming
        hasPeerAborted = true
        cause = Refusal(.internalError, "the hand-off was undone before a restart")
      case .completed: state = .lingering
      case .aborted: state = .finished
      }
    }
    let isHandedOver = state == .handedOff || state == .serving
    isFoundRunning = isHandedOver && vm == .running
    isDisabled = isHandedOver && vm == .gone
  }

  /// Whether a welcome must say that the source will never run this VM again.
  public var isHandedOff: Bool {
    switch state {
    case .handedOff, .serving, .completing, .lingering: true
    case .opening, .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved,
      .handingOff, .revoking, .recordingResume, .resuming, .awaitingAborted, .finished:
      false
    }
  }

  /// Begins a new session, or goes on with a recovered one. Call it once, before any event.
  public mutating func start(now: Instant, into effects: inout EffectQueue<SourceEffect>) {
    switch state {
    case .opening:
      effects.append(.journal(.opened(session: session, epoch: epoch, mode: mode)))
    case .resuming:
      effects.append(.listen)
      if mode.hasSeedRounds { effects.append(.endSeeding) }
      effects.append(.resumeVM)
    case .handedOff, .serving:
      if isFoundRunning { return contain(into: &effects) }
      effects.append(.listen)
      effects.append(.beginServing)
      effects.append(.beginPush)
      if state == .serving { effects.append(.disableVM) }
      armGiveUp(now, into: &effects)
    case .lingering:
      effects.append(.listen)
      effects.append(.releaseMemory)
      arm(.linger, after: limits.lingerNanoseconds, now, into: &effects)
    case .finished: finish(.aborted, into: &effects)
    case .preparing, .seeding, .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff,
      .completing, .revoking, .recordingResume, .awaitingAborted:
      invariantBroken("a core is started once, in a state that its journal can hold")
    }
  }

  /// One event; its effects are appended in the order in which they are to be carried out.
  public mutating func handle(
    _ event: SourceEvent, now: Instant, into effects: inout EffectQueue<SourceEffect>
  ) {
    // Whatever was under way when the outcome was told may still be answered.
    if state == .finished { return }
    switch event {
    case .linkUp(let progress): linkUp(progress, now, into: &effects)
    case .linkDown(let isFinal, let reason):
      linkDown(isFinal: isFinal, reason, now, into: &effects)
    case .received(let message): received(message, now, into: &effects)
    case .seeded(let reason): seeded(reason, now, into: &effects)
    case .seedingFailed(let reason): seedingFailed(reason, now, into: &effects)
    case .seedingLeftPaused(let reason): seedingLeftPaused(reason, into: &effects)
    case .vmm(let event): vmm(event, now, into: &effects)
    case .journal(.durable(let record)): durable(record, now, into: &effects)
    case .journal(.failed(let record, let mayBeDurable, let reason)):
      journalFailed(record, mayBeDurable: mayBeDurable, reason, now, into: &effects)
    case .memoryLost(let reason): memoryLost(reason, now, into: &effects)
    case .operatorAbort: operatorAbort(now, into: &effects)
    case .operatorPark: operatorPark(now, into: &effects)
    case .timer(let timer): ranOut(timer, now, into: &effects)
    }
  }
}
