internal import Pages
internal import Prefetch
internal import Synchronization
internal import System
internal import Wire

/// What the threads of one session share. Everything in it is either constant, atomic, or behind a
/// lock that the urgent thread never takes while another thread can hold it for long.
final class SourceContext: Sendable {
  /// Control messages that may wait for the control thread. A hand-over has a dozen; a peer that
  /// sends so many more that they do not fit is cut off.
  static let noticeCapacity = 256
  /// Places kept for what must always be told: a loss on each connection, of memory, and the end.
  static let noticeReserve = WireLimits.maximumBulkConnectionCount + 3
  /// So many poisoned pages are no broken cells but a failing device: 64 are a quarter of a MiB,
  /// above anything that memory error reports show for one VM, far below what a lost swap device
  /// leaves.
  static let maximumPoisonedPageCount = 64

  let layout: ImageLayout
  let backing: any MemoryBacking
  let session: SessionID
  let options: SourceOptions
  let claims: ImageClaims
  let counters: SourceCounters
  let hints = DemandHints()
  let notices: Mailbox<SourceNotice>
  let seeds: SeedFeed
  /// Stale seeds that the first bulk connection is to name.
  let discards = Lock<PageBitmap?>(nil)

  /// Seeds as the destination has them; nil when nobody keeps them.
  var deltas: DeltaCache? { options.sentSeeds.deltas }

  /// Digests of what is sent in rounds; nil when nobody wants them.
  var digests: SentDigests? {
    let digests = options.sentSeeds.digests
    return digests.isWanted ? digests : nil
  }

  /// What becomes of pages of a memory file that are sent in rounds.
  var punches: PunchWatch { options.sentSeeds.punches }

  /// What may still be sent now, beside what the credit allows.
  var bandwidth: BandwidthLimit { options.bandwidth }

  /// nil pushes nothing.
  private let policy: Lock<(any PrefetchPolicy)?>
  private let isStopping = Atomic<Bool>(false)
  private let isEnded = Atomic<Bool>(false)
  private let isMemoryLost = Atomic<Bool>(false)
  private let isPushing = Atomic<Bool>(false)
  private let isSeeded = Atomic<Bool>(false)
  /// 0 before the first heartbeat was answered.
  private let shortestRoundTrip = Atomic<UInt64>(0)
  /// What the destination holds, as it tells after a reconnect; nil once it has told, or when there
  /// is nothing to tell. Until then nothing is pushed.
  private let residentMap: Lock<ResidentMap.Decoder?>
  private let isAwaitingMap: Atomic<Bool>
  /// To wake the bulk threads: each has its own.
  private let bulkWakes = Lock<[WakeEvent]>([])
  private let attachedCount = Atomic<Int>(0)
  private let finishedCount = Atomic<Int>(0)
  private let poisonedCount = Atomic<Int>(0)
  /// The device state that waits to be sent by the first bulk connection.
  let deviceState = Lock<[UInt8]?>(nil)

  init(
    layout: ImageLayout, backing: any MemoryBacking, session: SessionID, options: SourceOptions,
    counters: SourceCounters, isReturn: Bool
  ) throws(SystemError) {
    self.layout = layout
    self.backing = backing
    self.session = session
    self.options = options
    self.counters = counters
    counters.unsettle()
    residentMap = Lock(isReturn ? .init(totalPageCount: layout.totalPageCount) : nil)
    isAwaitingMap = Atomic(isReturn)
    claims = ImageClaims(layout: layout)
    notices = try Mailbox(capacity: Self.noticeCapacity)
    seeds = try SeedFeed(layout: layout)
    policy = Lock(options.prefetch?.makePolicy(for: layout))
    claimUnheld()
  }

  /// We end the links: their ends are no news any more, and nothing new is pushed.
  var stopping: Bool { isStopping.load(ordering: .acquiring) }
  /// The bulk threads are to end, too.
  var ended: Bool { isEnded.load(ordering: .acquiring) }
  func end() { isEnded.store(true, ordering: .releasing) }
  /// Whether pages go by themselves now; without a prefetch policy, what is absent is told then.
  var pushing: Bool {
    isPushing.load(ordering: .acquiring) && !isAwaitingMap.load(ordering: .acquiring)
  }
  func beginStopping() { isStopping.store(true, ordering: .releasing) }
  /// Whether this link carries rounds of seeds.
  var hasSeeds: Bool { isSeeded.load(ordering: .acquiring) }
  func beginSeeds() { isSeeded.store(true, ordering: .releasing) }
  func beginPush() { isPushing.store(true, ordering: .releasing) }

  /// The shortest round trip of this link; nil before the first heartbeat was answered.
  var roundTripNanoseconds: UInt64? {
    let nanoseconds = shortestRoundTrip.load(ordering: .relaxed)
    return nanoseconds == 0 ? nil : nanoseconds
  }

  /// For the urgent thread alone.
  func noteRoundTrip(_ nanoseconds: UInt64?) {
    shortestRoundTrip.store(nanoseconds ?? 0, ordering: .relaxed)
    counters.noteRoundTrip(nanoseconds)
  }

  /// The place of a new bulk connection: 0 for the first, which also carries map and device state.
  func addBulk(_ wake: WakeEvent) -> Int {
    bulkWakes.withLock { wakes in
      wakes.append(wake)
      attachedCount.store(wakes.count, ordering: .relaxed)
      return wakes.count - 1
    }
  }

  /// How many bulk connections there are.
  var bulkCount: Int { bulkWakes.withLock { $0.count } }

  /// How many bulk threads have work, or will have; none is waited for.
  var busyBulkCount: Int {
    guard options.prefetch != nil else { return 0 }
    return attachedCount.load(ordering: .relaxed) - finishedCount.load(ordering: .relaxed)
  }

  func wakeBulk() { for wake in bulkWakes.withLock({ $0 }) { wake.signal() } }

  /// Takes a piece of what the destination holds. The last one starts the push.
  func takeResidentMap(_ payload: RawSpan, isLast: Bool) throws(WireError) {
    let isComplete = try residentMap.withLock { map throws(WireError) in
      guard map != nil else {
        throw .misplaced(.residentMap, from: .destination, on: .bulk)
      }
      try map?.take(payload, isLast: isLast) { pages in
        // What is seeded may be stale by the freeze, and what is not is told by the seeder.
        guard !hasSeeds else { return }
        counters.claimed(pageCount: claims.claim(pages))
      }
      guard map?.isComplete == true else { return false }
      map = nil
      return true
    }
    guard isComplete else { return }
    isAwaitingMap.store(false, ordering: .releasing)
    wakeBulk()
  }

  /// Passes a control message on; false when nobody takes them out.
  func received(_ message: ControlMessage) -> Bool {
    notices.post(.received(message), leaving: Self.noticeReserve)
  }

  /// Tells the end of a link, unless it is us who ends them all.
  func linkLost(_ role: ConnectionRole, _ failure: LinkFailure) {
    guard !stopping else { return }
    postAlways(.linkLost(role, failure))
  }

  /// Tells that memory is lost, once; every thread then stops reading it.
  func loseMemory(_ error: MemoryError) {
    guard !isMemoryLost.exchange(true, ordering: .acquiringAndReleasing) else { return }
    postAlways(.memoryLost(error))
  }

  var memoryLost: Bool { isMemoryLost.load(ordering: .acquiring) }

  /// Counts poisoned pages that were found for the first time.
  func foundPoison(pageCount: Int) throws(MemoryError) {
    guard pageCount > 0 else { return }
    let total = poisonedCount.wrappingAdd(pageCount, ordering: .relaxed).newValue
    guard total <= Self.maximumPoisonedPageCount else {
      throw .tooManyPoisonedPages(name: backing.source.description, count: total)
    }
  }

  /// One bulk connection has nothing left to push.
  func finishedPush() {
    let finished = finishedCount.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue
    if finished == bulkWakes.withLock({ $0.count }) { postAlways(.pushFinished) }
  }

  private func postAlways(_ notice: SourceNotice) {
    let isPosted = notices.post(notice)
    invariant(isPosted, "places are kept for what must always be told")
  }

  /// The next pages to push, claimed for the caller: a run, and a bit for each page of it that
  /// nobody had claimed before. nil when the whole image is claimed.
  func nextRun() -> (run: PageRun, won: UInt32)? {
    policy.withLock { policy in
      while let demand = hints.take() { policy?.noteDemand(demand) }
      while let run = policy?.next(skipping: claims) {
        var won: UInt32 = 0
        for (position, index) in layout.flatRange(of: run).enumerated() where claims.claim(index) {
          won |= 1 << UInt32(position)
        }
        // All of it was demanded in the meantime: the policy has something else.
        guard won != 0 else { continue }
        counters.claimed(pageCount: won.nonzeroBitCount)
        return (run, won)
      }
      return nil
    }
  }
}
