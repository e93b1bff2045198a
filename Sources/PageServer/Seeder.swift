internal import Migration
internal import Pages
internal import Synchronization
internal import System
internal import VMM
internal import Wire

/// Runs the rounds of seeds of one session, over however many links that takes.
///
/// Each round sends what was written during the one before; the log of writes is fetched behind
/// each round, so that a page that is written while it is being sent is sent again, and in the
/// middle of a long one: see `RoundLooks`. What a lost link had under way counts as written, except
/// for what the destination has said it took in.
///
/// One thread runs `run` at a time, and `finish` only when it has returned.
final class Seeder: Sendable {
  /// The image whose pages are counted here.
  let layout: ImageLayout
  private let log: any DirtyLog
  private let tracking: @Sendable () -> WriteTracking
  private let seeds: SentSeeds
  private let throttle: GuestThrottle?
  private let pause: LookPause?
  private let stallNanoseconds: UInt64
  private let state: Lock<State>
  private let isCancelled = Atomic<Bool>(false)
  private let isTold = Atomic<Bool>(false)

  private struct State {
    var rule: SwitchRule
    /// Nothing was sent yet.
    var started: Instant?
    var round: UInt64 = 0
    /// What the destination lacks, as far as the log has told.
    var pending: PageBitmap
    /// What may be at the destination, stale or not.
    var sent: PageBitmap
    /// The last round was lost with its link, and the log not looked at since.
    var hasLostRound = false
    /// Pages whose seeds the destination has dropped, on this link.
    var named: PageBitmap
    /// A look that failed may have taken something out of the log: nothing can be known any more.
    var failure: VMMError?
  }

  init(
    layout: ImageLayout, log: any DirtyLog, limits: SwitchLimits,
    tracking: @escaping @Sendable () -> WriteTracking = { .vmm },
    seeds: SentSeeds = SentSeeds(deltaCacheByteCount: 0), throttle: GuestThrottle? = nil,
    pause: LookPause? = nil,
    stallNanoseconds: UInt64 = Seeder.stallNanoseconds
  ) {
    self.layout = layout
    self.log = log
    self.tracking = tracking
    self.seeds = seeds
    self.throttle = throttle
    self.pause = pause
    self.stallNanoseconds = stallNanoseconds
    let empty = PageBitmap(pageCount: Int(layout.totalPageCount.rawValue))
    state = Lock(State(rule: SwitchRule(limits), pending: empty, sent: empty, named: empty))
  }

  /// Ends `run` soon, wherever it is.
  func cancel() {
    isCancelled.store(true, ordering: .releasing)
    // A look at all of the memory ends, too.
    seeds.digests.end()
  }

  /// Ends the rounds as soon as that can be: the VM is to be switched over, whatever is left.
  func switchOver() { isTold.store(true, ordering: .releasing) }

  /// What the link carried before tells nothing any more.
  func bandwidthChanged() { state.withLock { $0.rule.bandwidthChanged() } }

  /// Runs rounds over a link until it is time to switch, or they can go on no more. Blocks for as
  /// long as that takes; `told` is called after each round.
  func run(
    over plane: SourceDataPlane, told: (SeedRoundNote) -> Void
  ) throws(VMMError) -> SeedRunEnd {
    if isCancelled.load(ordering: .acquiring) { return .linkLost }
    try begin()
    while !isCancelled.load(ordering: .acquiring) {
      // Over already, as on a new link: an empty round shows that the link holds.
      let over = reasonToEnd(MonotonicClock.now())
      let (round, pages) = nextRound(isEmpty: over != nil)
      seeds.punches.willSend(pages)
      let start = MonotonicClock.now()
      var looks = RoundLooks(
        pageCount: pages.setCount, imagePageCount: pages.pageCount, start: start)
      plane.beginSeedRound(round, pages)
      var outcome: RoundOutcome
      switch try awaitRound(plane, &looks) {
      case .applied(let applied): outcome = applied
      case .lost(let taken):
        lose(taken, stale: looks.stale)
        return .linkLost
      case .unanswered(let taken):
        lose(taken, stale: looks.stale)
        return .unanswered
      case .cancelled: return .linkLost
      }
      if let over {
        outcome.unsent.formUnion(state.withLock { $0.pending })
        outcome.stopReason = over
      }
      var note = try endRound(
        outcome, &looks, start: start, roundTrip: plane.roundTripNanoseconds)
      if case .goOn = note.verdict { throttle?.roundEnded(note.result) }
      if let throttle, throttle.percent > 0 {
        note.throttlePercent = throttle.percent
        note.throttleMeans = throttle.means
      }
      note.tracking = tracking()
      note.lookPauseNanoseconds = pause?.takeNanoseconds() ?? 0
      told(note)
      switch note.verdict {
      case .goOn: break
      case .switchOver(let reason):
        if let end = try nameStale(plane) { return end }
        throttle?.pauseComes()
        return .decided(reason)
      case .stay(let reason):
        // It becomes a switch when the order for one comes a moment late.
        throttle?.pauseComes()
        return .staying(reason)
      }
    }
    return .linkLost
  }

  /// Has the destination drop what is stale already, which would be a part of the pause else; nil
  /// when it has.
  private func nameStale(_ plane: SourceDataPlane) throws(VMMError) -> SeedRunEnd? {
    let stale = state.withLock { state in
      var stale = state.pending
      stale.formIntersection(state.sent)
      return stale
    }
    // A few take no longer than the round trip.
    guard stale.setCount >= 64 else { return nil }
    let (round, none) = nextRound(isEmpty: true)
    // Before it is known whether they are: what is sent anew must not build on them.
    seeds.discarded(stale)
    plane.beginSeedRound(round, none, naming: stale)
    var looks = RoundLooks(
      pageCount: 0, imagePageCount: none.pageCount, start: MonotonicClock.now())
    switch try awaitRound(plane, &looks) {
    case .applied: state.withLock { $0.named = stale }
    case .lost(let taken):
      lose(taken, stale: none)
      return .linkLost
    case .unanswered(let taken):
      lose(taken, stale: none)
      return .unanswered
    case .cancelled: return .linkLost
    }
    return nil
  }

  /// The number of the round that begins, and what it sends.
  private func nextRound(isEmpty: Bool) -> (UInt64, PageBitmap) {
    state.withLock { state in
      state.round += 1
      guard !isEmpty else {
        return (state.round, PageBitmap(pageCount: state.pending.pageCount))
      }
      // Whatever becomes of the round, these may be there from now on.
      state.sent.formUnion(state.pending)
      return (state.round, state.pending)
    }
  }

  /// Looks at what was written in a round that the destination has taken in, and judges it.
  private func endRound(
    _ outcome: RoundOutcome, _ looks: inout RoundLooks, start: Instant, roundTrip: UInt64?
  ) throws(VMMError) -> SeedRoundNote {
    let end = MonotonicClock.now()
    awaitEarliestLook()
    let lookStart = MonotonicClock.now()
    var dirty = try fetch()
    let lookNanoseconds = MonotonicClock.now().nanoseconds(since: lookStart)
    looks.lookedLast(dirty, at: lookStart)
    dirty.formUnion(looks.stale)
    dirty.formUnion(outcome.unsent)
    var result = SeedRoundResult(
      sentByteCount: outcome.sentByteCount, nanoseconds: end.nanoseconds(since: start),
      dirtiedByteCount: layout.byteCount(of: dirty), roundTripNanoseconds: roundTrip,
      savedByteCount: outcome.savedByteCount)
    result.lookNanoseconds = lookNanoseconds
    let (written, stretch) = looks.written(inLast: result.nextRoundNanoseconds)
    result.writtenByteCount = layout.byteCount(of: written)
    result.writtenNanoseconds = stretch
    return judge(dirty, result, stoppedBy: outcome.stopReason, at: end)
  }

  /// A look for which the VM stands still comes no sooner than it may, unless the rounds are over.
  private func awaitEarliestLook() {
    while let earliest = log.earliestLook, !isCancelled.load(ordering: .acquiring) {
      let now = MonotonicClock.now()
      guard now < earliest, reasonToEnd(now) == nil else { return }
      throttle?.renew(now)
      // A poll that fails costs a look that comes too soon.
      let next = now.advanced(byNanoseconds: Self.lookNanoseconds)
      _ = try? Readiness.wait(for: [], until: min(earliest, next))
    }
  }

  /// The VM is stopped: the pages whose seeds are stale and were not dropped yet, and those whose
  /// seeds are right. The log is of no use any more, see `stopLog`.
  func finish() throws(VMMError) -> (stale: PageBitmap, fresh: PageBitmap) {
    let dirty = try look { () throws(VMMError) in try log.fetchFinalDirtyLog() }
    return state.withLock { state in
      state.pending.formUnion(dirty)
      var stale = state.pending
      stale.formIntersection(state.sent)
      var fresh = state.sent
      fresh.subtract(stale)
      stale.subtract(state.named)
      return (stale, fresh)
    }
  }

  /// Slows nobody down any more; a VMM that is slow itself was let go ahead of its pause.
  func releaseGuest() { throttle?.release() }

  /// Watches no more, and slows nobody down. A VMM that does not answer goes on doing it.
  func stopLog() {
    // One that is slow itself is asked for nothing before it is let go.
    throttle?.pauseComes()
    try? log.stopDirtyLog()
    throttle?.release()
  }

  /// Gives back what it has kept of the seeds. Takes a tenth of a second for each GiB of a memory
  /// file, so not while the VM stands still.
  func forgetSeeds() { seeds.end() }

  /// Begins, or takes in what was written while there was no link: it belongs to no round's rate.
  private func begin() throws(VMMError) {
    // They are sent again where another round follows.
    state.withLock { $0.named = PageBitmap(pageCount: $0.named.pageCount) }
    if state.withLock({ $0.started != nil }) {
      awaitEarliestLook()
      let dirty = try fetch()
      let (pending, hasLostRound) = state.withLock { state in
        state.pending.formUnion(dirty)
        state.rule.linkChanged()
        defer { state.hasLostRound = false }
        return (state.pending, state.hasLostRound)
      }
      guard hasLostRound else { return }
      // Counted outside of the lock: that may take a while.
      let remaining = layout.byteCount(of: pending)
      return state.withLock { $0.rule.roundLost(remaining: remaining) }
    }
    try log.startDirtyLog()
    seeds.begin(layout)
    let now = MonotonicClock.now()
    state.withLock { state in
      state.started = now
      state.pending.insertAll()
    }
  }

  /// A round that the destination has taken in.
  private struct RoundOutcome {
    /// Pages that were left out: the round was ended early, or they are poisoned.
    var unsent: PageBitmap
    var sentByteCount: UInt64
    var savedByteCount: UInt64
    /// Why it was ended early; nil when it was not.
    var stopReason: SwitchReason?
  }

  private enum Awaited {
    case applied(RoundOutcome)
    /// With the link; these pages of it were taken in before.
    case lost(taken: PageBitmap)
    /// The destination has taken in these, and then nothing any more.
    case unanswered(taken: PageBitmap)
    case cancelled
  }

  /// The round under way is lost with its link: what the destination has taken in of it need not be
  /// sent again, unless it was written behind that (`stale`), or will be, which the log tells on
  /// the next link.
  private func lose(_ taken: PageBitmap, stale: PageBitmap) {
    let round = state.withLock { state in
      state.pending.subtract(taken)
      state.pending.formUnion(stale)
      state.hasLostRound = true
      return state.round
    }
    seeds.lost(round: round, except: taken)
  }

  private func awaitRound(
    _ plane: SourceDataPlane, _ looks: inout RoundLooks
  ) throws(VMMError) -> Awaited {
    let feed = plane.seeds
    var stopReason: SwitchReason?
    while true {
      switch feed.progress() {
      case .applied(let unsent, let sentByteCount, let savedByteCount):
        return .applied(
          RoundOutcome(
            unsent: unsent, sentByteCount: sentByteCount, savedByteCount: savedByteCount,
            stopReason: stopReason))
      case .lost(let taken): return .lost(taken: taken)
      case .running: break
      }
      if isCancelled.load(ordering: .acquiring) { return .cancelled }
      let now = MonotonicClock.now()
      if now.nanoseconds(since: feed.lastProgress) > stallNanoseconds {
        return .unanswered(taken: feed.taken)
      }
      throttle?.renew(now)
      if stopReason == nil, let reason = reasonToEnd(now) {
        stopReason = reason
        plane.stopSeedRound()
      }
      if stopReason == nil { try lookMidway(feed, &looks, now) }
      // A poll that fails costs a look that comes too soon.
      _ = try? Readiness.wait(
        for: [feed.news.rawValue], until: now.advanced(byNanoseconds: Self.lookNanoseconds))
    }
  }

  /// Looks at the log if it is time.
  private func lookMidway(
    _ feed: SeedFeed, _ looks: inout RoundLooks, _ now: Instant
  ) throws(VMMError) {
    let takenCount = feed.takenCount
    guard looks.isDue(now, takenCount: takenCount), log.isCheap, throttle?.mayHoldVMM != true
    else { return }
    let written = try fetch()
    looks.lookedMidway(
      written, untaken: feed.untaken, takenCount: takenCount, from: now, to: MonotonicClock.now())
  }

  /// How often the clock is looked at in the middle of a round.
  private static let lookNanoseconds: UInt64 = 20_000_000
  /// How long a destination that lives may take nothing in: it has credit to give for each MiB, and
  /// a link that needs longer for that carries no VM.
  static let stallNanoseconds: UInt64 = 60_000_000_000

  /// Why the rounds end now, wherever they are; nil when they go on.
  private func reasonToEnd(_ now: Instant) -> SwitchReason? {
    if isTold.load(ordering: .acquiring) { return .told }
    return state.withLock { state in
      let elapsed = state.started.map { now.nanoseconds(since: $0) } ?? 0
      if state.rule.timeIsOver(elapsed) { return .time }
      return state.rule.roundsAreOver ? .rounds : nil
    }
  }

  private func judge(
    _ dirty: PageBitmap, _ result: SeedRoundResult, stoppedBy stopReason: SwitchReason?,
    at end: Instant
  ) -> SeedRoundNote {
    state.withLock { state in
      state.pending = dirty
      let elapsed = state.started.map { end.nanoseconds(since: $0) } ?? 0
      let verdict: RoundVerdict =
        switch stopReason {
        case nil: state.rule.roundEnded(result, elapsedNanoseconds: elapsed)
        case .told: .switchOver(.told)
        case .some(let limit): state.rule.roundStopped(result, by: limit)
        }
      return SeedRoundNote(
        number: state.round, result: result, verdict: obeying(verdict),
        predictedDowntimeNanoseconds: state.rule.predictedNanoseconds(
          for: result.dirtiedByteCount))
    }
  }

  /// Whoever asks for the switch means it, also when a limit is reached in the same moment.
  private func obeying(_ verdict: RoundVerdict) -> RoundVerdict {
    if case .stay = verdict, isTold.load(ordering: .acquiring) { return .switchOver(.told) }
    return verdict
  }

  /// What was written since the last look.
  private func fetch() throws(VMMError) -> PageBitmap {
    try look { () throws(VMMError) in try log.fetchDirtyLog() }
  }

  private func look(
    _ fetch: () throws(VMMError) -> [UInt8]
  ) throws(VMMError) -> PageBitmap {
    if let failure = state.withLock(\.failure) { throw failure }
    do throws(VMMError) { return layout.pages(in: try fetch()) } catch {
      state.withLock { $0.failure = error }
      throw error
    }
  }
}
