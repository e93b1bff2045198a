public import Pages
public import Wire

/// What can happen to the destination's core.
public enum DestinationEvent: Hashable, Sendable {
  /// The source welcomed our urgent connection.
  case linkUp(Welcome)
  /// The source refused us in the handshake.
  case linkRefused(Refusal)
  /// The link is lost. Final: the edge will not dial again in this life.
  case linkDown(isFinal: Bool, Refusal)
  /// A control message arrived on the urgent connection.
  case received(ControlMessage)
  /// `discard` is done and every page was verified absent.
  case discardsApplied
  /// `discard` failed.
  case discardFailed(Refusal)
  /// Device state arrived whole.
  case deviceStateReceived
  /// The VMM answered, or died.
  case vmm(DestinationVMMEvent)
  /// The journal's answer to `DestinationEffect.journal`.
  case journal(JournalAnswer<DestinationRecord>)
  /// Nothing is awaited from the source any more (`PageLedger.isAllHere`), whatever has still to be
  /// installed from what is here.
  case allHere
  /// No page is missing, requested or staged any more (`PageLedger.isComplete`). Implies
  /// `allHere`. Said again by a restarted worker; repeating it is harmless.
  case allResident
  /// Pages cannot be installed here (out of memory, a mapping changed under us).
  case memoryFailed(Refusal)
  /// The operator asks to stop (first SIGINT or SIGTERM and every later one; `abort` verb).
  case operatorAbort
  /// The operator asks to park at once, whatever the state (`park` verb).
  case operatorPark
  /// A timer that was set has run out.
  case timer(DestinationTimer)
}

/// The VMM at the destination. It carries out our commands in order, one at a time, except
/// `killVM`, which must not queue behind another: a load may be waiting for a page that will never
/// come. What the kill cuts short is answered as failed, before or after `killed`.
public enum DestinationVMMEvent: Hashable, Sendable {
  /// `loadDeviceState` is done.
  case loaded
  /// `loadDeviceState` failed.
  case loadFailed(Refusal)
  /// `runVM` is done: its vCPUs run since that moment.
  case running(since: Instant)
  /// `runVM` failed. `isShownNotRunning`: the VMM answered, and its state says that no vCPU ran.
  case runRefused(isShownNotRunning: Bool, Refusal)
  /// `killVM` is done: the process was reaped, or its pidfd says that it is gone.
  case killed
  /// `killVM` failed: the VMM may still be there.
  case killFailed(Refusal)
  /// Its process ended by itself.
  case died(Refusal)
}

/// The destination's timers; each is armed at most once at a time.
public enum DestinationTimer: UInt8, CaseIterable, Hashable, Sendable {
  /// From the loss of the link to the verdict: aborted before GO was accepted, else parked.
  case giveUp
  /// How long the source may take to be reached and to answer when the session is over.
  case linger
}

/// The destination's time limits.
public struct DestinationLimits: Hashable, Sendable {
  /// Link loss before GO was accepted to *aborted*.
  public var giveUpBeforeGoNanoseconds: UInt64
  /// Link loss after GO was accepted to *parked*; nil waits for ever.
  public var giveUpNanoseconds: UInt64?
  /// Waiting for the peer at the end of a session.
  public var lingerNanoseconds: UInt64

  /// Limits with all their parts. The first's default is above a source worker's restart.
  public init(
    giveUpBeforeGoNanoseconds: UInt64 = 10_000_000_000, giveUpNanoseconds: UInt64? = nil,
    lingerNanoseconds: UInt64 = 5_000_000_000
  ) {
    self.giveUpBeforeGoNanoseconds = giveUpBeforeGoNanoseconds
    self.giveUpNanoseconds = giveUpNanoseconds
    self.lingerNanoseconds = lingerNanoseconds
  }
}

/// What the destination's edge is to do. Effects of one event are carried out in order.
public enum DestinationEffect: Hashable, Sendable {
  /// Append, fsync, and answer with `DestinationEvent.journal`.
  case journal(DestinationRecord)
  /// Append without waiting; a failure costs nothing and is not answered.
  case journalLazily(DestinationRecord)
  /// Dial the source, again after every loss that is not final.
  case dial
  /// Drop these many stale seeded pages (their runs came on bulk) and verify them absent. Answered.
  /// Never asked for without seed rounds.
  case discard(PageCount)
  /// Answer faults from now on: until here every one is parked. After a restart: wake every range.
  case beginFaults
  /// Load the device state that was received; its faults are demands. Answered.
  case loadDeviceState
  /// Let the VM run, also when it runs already. Answered.
  case runVM
  /// Kill the VMM at once, whatever it is in the middle of; its memory is never used again.
  /// Answered, also when it is gone already.
  case killVM
  /// All pages are here: unregister every range. Repeating it is harmless.
  case unregister
  /// Send on the urgent connection.
  case send(ControlMessage)
  /// Close the link with that refusal; answered by `linkDown`.
  case disconnect(Refusal)
  /// Arm the timer, replacing an earlier setting.
  case setTimer(DestinationTimer, at: Instant)
  /// Disarm the timer; one that has just run out may still be delivered.
  case cancelTimer(DestinationTimer)
  /// Tell the operator that a stop is refused once, and why; the next one parks.
  case refuseStop(Refusal)
  /// The session is over on this side: flush what was sent, close the link, report. Always last.
  case finish(Outcome)
}

/// Moments of the hand-over on the destination's clock, for the report. nil has not happened.
public struct DestinationTimes: Hashable, Sendable {
  /// The source's memory became final.
  public internal(set) var frozen: Instant?
  /// Device state arrived whole.
  public internal(set) var deviceState: Instant?
  /// Device state was loaded.
  public internal(set) var loaded: Instant?
  /// PREPARED was said.
  public internal(set) var prepared: Instant?
  /// GO arrived.
  public internal(set) var go: Instant?
  /// GO_ACCEPTED was durable.
  public internal(set) var goAccepted: Instant?
  /// vCPUs ran.
  public internal(set) var running: Instant?
  /// RAN was said.
  public internal(set) var ran: Instant?
  /// Every page was here.
  public internal(set) var allResident: Instant?

  /// The parts of the downtime that passed here; a part that was not seen whole is 0.
  var pauseParts: PauseParts {
    func nanoseconds(_ start: Instant?, _ end: Instant?) -> UInt64 {
      guard let start, let end else { return 0 }
      return end.nanoseconds(since: start)
    }
    return PauseParts(
      transferNanoseconds: nanoseconds(frozen, deviceState),
      loadNanoseconds: nanoseconds(deviceState, loaded),
      acceptNanoseconds: nanoseconds(go, goAccepted),
      startNanoseconds: nanoseconds(goAccepted, running),
      fillNanoseconds: nanoseconds(loaded, prepared))
  }
}
