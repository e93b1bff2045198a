public import Pages
public import Wire

/// What can happen to the source's core.
public enum SourceEvent: Hashable, Sendable {
  /// The destination's urgent connection passed the handshake; the hello proved that progress.
  case linkUp(DestinationProgress)
  /// The link is lost. Final: the edge will not accept another connection in this life.
  case linkDown(isFinal: Bool, Refusal)
  /// A control message arrived on the urgent connection.
  case received(ControlMessage)
  /// The rounds have come to an end, and what they sent has been taken in: time to switch.
  case seeded(SwitchReason)
  /// Memory is seeded no longer: what is written to it is not seen any more, or the rounds have
  /// come to a limit behind which the VM is to stay.
  case seedingFailed(Refusal)
  /// The same, and the VM was paused for a look at what it writes, and could not be resumed.
  case seedingLeftPaused(Refusal)
  /// The VMM answered, or did something by itself.
  case vmm(SourceVMMEvent)
  /// The journal's answer to `SourceEffect.journal`.
  case journal(JournalAnswer<SourceRecord>)
  /// The source's memory cannot be read any more (file truncated, process gone).
  case memoryLost(Refusal)
  /// The operator asks to stop (first SIGINT or SIGTERM and every later one; `abort` verb).
  case operatorAbort
  /// The operator asks to park at once, whatever the state (`park` verb).
  case operatorPark
  /// A timer that was set has run out.
  case timer(SourceTimer)
}

/// The VMM at the source. It carries out our commands in order, one at a time.
public enum SourceVMMEvent: Hashable, Sendable {
  /// `pauseVM` is done: no vCPU runs and no device writes memory. The count is that of the final
  /// dirty set, found in so many nanoseconds behind the pause itself: both 0 without seed rounds.
  case paused(discardPageCount: PageCount, scanNanoseconds: UInt64 = 0)
  /// `pauseVM` failed; the VM may or may not be stopped.
  case pauseFailed(Refusal)
  /// `resumeVM` is done.
  case resumed
  /// `resumeVM` failed: the VM is stopped.
  case resumeFailed(Refusal)
  /// It runs again though nobody asked (QEMU does when its stream breaks).
  case resumedByItself
  /// Device state has been handed to the bulk connection whole, and the VMM calls its own migration
  /// completed: it will not resume by itself any more.
  case deviceStateSaved
  /// Device state could not be taken or sent.
  case deviceStateSaveFailed(Refusal)
  /// `disableVM` is done: it can never run again.
  case disabled
  /// `disableVM` failed: the VM is stopped but could be started by hand.
  case disableFailed(Refusal)
}

/// How an append to a journal ended.
public enum JournalAnswer<Record: Hashable & Sendable>: Hashable, Sendable {
  /// Written and fsynced.
  case durable(Record)
  /// Not written. `mayBeDurable` is false only when no later life can read the record: the write
  /// itself failed or was cut short, never when fsync failed.
  case failed(Record, mayBeDurable: Bool, Refusal)
}

/// The source's timers; each is armed at most once at a time.
public enum SourceTimer: UInt8, CaseIterable, Hashable, Sendable {
  /// From the freeze to the hand-off: the VM is stopped and must not stay so.
  case handOver
  /// How long the destination may take to be reached and to answer when the session is over.
  case linger
  /// From the loss of the link to the verdict: *aborted* in rounds, *parked* after the hand-off.
  case giveUp
}

/// The source's time limits.
public struct SourceLimits: Hashable, Sendable {
  /// Freeze to hand-off; nil waits for ever (quick mode copies all memory in it).
  public var handOverNanoseconds: UInt64?
  /// Waiting for the peer at the end of a session.
  public var lingerNanoseconds: UInt64
  /// Link loss to *parked*; nil waits for ever.
  public var giveUpNanoseconds: UInt64?
  /// Link loss in rounds to *aborted*.
  public var giveUpRoundsNanoseconds: UInt64

  /// Limits with all their parts. The hand-over's default is above any sane load of device state,
  /// the linger's above a reconnect, and that for rounds above what a destination waits.
  public init(
    handOverNanoseconds: UInt64? = 30_000_000_000, lingerNanoseconds: UInt64 = 5_000_000_000,
    giveUpNanoseconds: UInt64? = nil, giveUpRoundsNanoseconds: UInt64 = 30_000_000_000
  ) {
    self.giveUpRoundsNanoseconds = giveUpRoundsNanoseconds
    self.handOverNanoseconds = handOverNanoseconds
    self.lingerNanoseconds = lingerNanoseconds
    self.giveUpNanoseconds = giveUpNanoseconds
  }
}

/// What the source's edge is to do. Effects of one event are carried out in order.
public enum SourceEffect: Hashable, Sendable {
  /// Append, fsync, and answer with `SourceEvent.journal`.
  case journal(SourceRecord)
  /// Append without waiting; a failure costs nothing and is not answered.
  case journalLazily(SourceRecord)
  /// Accept the destination from now on.
  case listen
  /// Begin rounds of seeds, or go on with them over a new link. Answered by `SourceEvent.seeded` or
  /// `.seedingFailed`; the loss of the link ends it without an answer. Whatever ends it, also when
  /// the session was given up meanwhile: a VM that is left paused is told, `.seedingLeftPaused`.
  case beginSeeding
  /// Seed no more, and let the VM run without anybody watching what it writes.
  case endSeeding
  /// Stop the VM. Answered.
  case pauseVM
  /// Let the VM run, also when it runs already. Answered.
  case resumeVM
  /// Take the device state and send it on bulk. Answered.
  case saveDeviceState
  /// Make the VM unable to run for ever, its memory kept. Answered. Repeating it is harmless.
  case disableVM
  /// The memory is final: answer demands from it.
  case beginServing
  /// Memory is about to change: answer nothing more from it.
  case endServing
  /// Push pages on bulk from now on, again after every reconnect.
  case beginPush
  /// Nothing needs the source's memory any more.
  case releaseMemory
  /// Send on the urgent connection.
  case send(ControlMessage)
  /// Close the link with that refusal; answered by `linkDown`.
  case disconnect(Refusal)
  /// Arm the timer, replacing an earlier setting.
  case setTimer(SourceTimer, at: Instant)
  /// Disarm the timer; one that has just run out may still be delivered.
  case cancelTimer(SourceTimer)
  /// Tell the operator that a stop is refused once, and why; the next one parks.
  case refuseStop(Refusal)
  /// The session is over on this side: flush what was sent, close the link, report. Always last.
  case finish(Outcome)
}

/// Moments of the hand-over on the source's clock, for the report. nil has not happened.
public struct SourceTimes: Hashable, Sendable {
  /// The first round began.
  public internal(set) var seeding: Instant?
  /// The pause was asked for: the blackout begins.
  public internal(set) var freeze: Instant?
  /// The VM was stopped, and its final dirty set known.
  public internal(set) var paused: Instant?
  /// Nanoseconds of that which went into the final dirty set.
  public internal(set) var lastScanNanoseconds: UInt64 = 0
  /// The destination had discarded.
  public internal(set) var discarded: Instant?
  /// Device state was out.
  public internal(set) var saved: Instant?
  /// The destination was prepared.
  public internal(set) var prepared: Instant?
  /// HANDED_OFF was durable.
  public internal(set) var handedOff: Instant?
  /// RAN arrived, this long after the VM's start on the destination's clock.
  public internal(set) var ran: Instant?
  /// From the VM's start to the sending of RAN, measured by the destination.
  public internal(set) var nanosecondsFromStartToRan: UInt64?
  /// What the destination did meanwhile, on its own clock; all 0 before RAN arrived.
  public internal(set) var destinationPause = PauseParts()
  /// COMPLETE arrived.
  public internal(set) var complete: Instant?

  /// The blackout: freeze to RAN, less what passed at the destination after the start. Uncertain by
  /// half a round trip.
  public var downtimeNanoseconds: UInt64? {
    guard let freeze, let ran, let after = nanosecondsFromStartToRan else { return nil }
    let total = ran.nanoseconds(since: freeze)
    return total > after ? total - after : 0
  }
}
