internal import Migration
internal import Pages
internal import Synchronization
internal import System
internal import UFFD
internal import Wire

/// Why a fill did not get to its end.
enum FillObstacle: Hashable, Sendable {
  /// An event is unread, or its thread not yet past it: read the messages, then try again.
  case retry
  /// No memory for the page. It stays missing; nothing may stand in for it.
  case outOfMemory
  /// The VMM is gone.
  case gone
  /// The VMM's mapping is not what it was.
  case noMapping
  /// The kernel cannot poison pages.
  case noPoison
}

/// Where a fill stands.
struct FillProgress: Sendable {
  /// Pages that it has not dealt with.
  var remaining: Range<Int>
  /// What is in its way; nil when it is done.
  var obstacle: FillObstacle?
  /// Pages that were staged are missing again: the source has to be asked for them.
  var hasLostSeeds = false
  /// What the image has come to with this fill; told for one fill only.
  var milestone: ImageMilestone?
}

/// How whole the image is.
enum ImageMilestone: UInt8, Hashable, Sendable {
  /// Nothing is awaited from the source any more; seeds may still have to be installed.
  case allHere
  /// Nothing has to be installed any more.
  case allResident
}

/// Where pages come from.
enum PageOrigin: Hashable, Sendable { case demand, push }

/// The only place that changes the VMM's memory and what we know of it.
///
/// Every check + fill + mark, and every read of messages + mark, happens under one lock, the *fill
/// lock*: reading a REMOVE lets the guest's madvise go on, and a fill that was decided before must
/// not come after (kernel fact 6). No hold is longer than a read of 64 messages, one fill of 64 KiB
/// or of one huge page, or a look at `scanPageCount` states; before faults are answered, than to
/// take `takeOutPageCount` pages out of the memory. The fault thread waits for one hold at most.
final class PageInstaller: Sendable {
  /// Bounds the states looked at in one hold of the lock: some tens of microseconds.
  static let scanPageCount = 16_384
  /// Bounds the pages taken out of the memory in one hold of the lock: about a millisecond.
  static let takeOutPageCount = 1024

  let map: HostRegionMap
  let layout: ImageLayout
  let userfault: UserfaultHandle
  /// One huge page of zeros where the image has huge pages: they have no ZEROPAGE.
  let zeros: [UInt8]
  let filling: PrecedenceLock<Filling>
  /// Where seeds wait; nil where none come.
  let stage: Stage?
  /// Held while seeds are settled.
  let ending = Lock(())
  /// False once all are settled.
  let awaitsSeeds: Atomic<Bool>
  /// True once an unread event of the VMM has cost a seed.
  let hasHeldUpSeeds = Atomic<Bool>(false)
  private let demandLatency = LatencyRecorder()

  /// Whether seeds may come, or are being settled.
  enum Seeding: Hashable, Sendable {
    /// They may, and discards.
    case coming
    /// None comes any more, and what is in place is not counted as installed yet.
    case settling
    /// What may be stale stays in the guest's memory, because of that error: no seed, and no fault
    /// is ever answered.
    case failed(Errno)
    /// All are settled, or none ever come.
    case over
  }

  /// What the fill lock guards.
  struct Filling {
    var ledger: PageLedger<MappedPageStates>
    var demands = DemandTable()
    var statistics = DataPlaneStatistics()
    var announced: ImageMilestone?
    /// Pages whose last seed was zeros; nil where no seeds come. They become `zero` when no seed
    /// can come any more: until then the page-state file knows nothing of them.
    var zeroSeeds: PageBitmap?
    var seeding: Seeding
    let demandLatency: LatencyRecorder

    /// Whether seeds and discards of these pages may come: whatever is known of them otherwise came
    /// by another way, and is not theirs to change. Throws for good once a take-out has failed.
    func takesSeeds(of pages: Range<Int>) throws(SeedFailure) -> Bool {
      if case .failed(let errno) = seeding { throw .stale(errno) }
      guard seeding == .coming else { return false }
      return pages.allSatisfy { page in
        switch ledger[page] {
        case .missing, .zero, .staged: true
        case .requested, .present, .removed, .poisoned: false
        }
      }
    }

    /// Takes no more of them, and keeps those that were zeros; false when it did so before. Throws
    /// for good once a take-out has failed.
    mutating func refuseSeeds() throws(SeedFailure) -> Bool {
      if case .failed(let errno) = seeding { throw .stale(errno) }
      guard let zeros = zeroSeeds, seeding == .coming else { return false }
      var position = 0
      while let run = zeros.nextRun(
        from: position, before: zeros.pageCount, limit: zeros.pageCount)
      {
        _ = ledger.zeroArrived(run)
        position = run.upperBound
      }
      statistics.zeroReportedPageCount += UInt64(zeros.setCount)
      zeroSeeds = nil
      seeding = .settling
      return true
    }

    mutating func installed(_ pages: Range<Int>) {
      ledger.installed(pages)
      settleDemands(pages)
    }

    mutating func settleDemands(_ pages: Range<Int>) {
      guard demands.count > 0 else { return }
      for page in pages {
        guard let asked = demands.remove(page) else { continue }
        let latency = MonotonicClock.now().nanoseconds(since: asked)
        demandLatency.record(nanoseconds: latency)
      }
    }

    /// A milestone that was not announced yet; the later one stands for both.
    mutating func nextMilestone() -> ImageMilestone? {
      guard announced != .allResident, seeding == .over, ledger.isAllHere else { return nil }
      let reached: ImageMilestone = ledger.isComplete ? .allResident : .allHere
      guard reached != announced else { return nil }
      announced = reached
      return reached
    }
  }

  init(
    document: AttachDocument, kinds: [MemoryKind], userfault: UserfaultHandle,
    ledger: sending PageLedger<MappedPageStates>, stage: Stage? = nil
  ) {
    self.stage = stage
    awaitsSeeds = Atomic(stage != nil)
    map = HostRegionMap(document, kinds: kinds)
    layout = document.layout
    self.userfault = userfault
    let hasHugePages = document.layout.regions.contains { $0.pageSize == .huge }
    zeros = [UInt8](repeating: 0, count: hasHugePages ? PageSize.huge.byteCount : 0)
    let pageCount = Int(document.layout.totalPageCount.rawValue)
    filling = PrecedenceLock(
      Filling(
        ledger: ledger, zeroSeeds: stage.map { _ in PageBitmap(pageCount: pageCount) },
        seeding: stage == nil ? .over : .coming, demandLatency: demandLatency))
  }

  /// A consistent copy of the counters.
  func statistics() -> DataPlaneStatistics {
    var statistics = filling.withLock { filling in
      var statistics = filling.statistics
      statistics.pageCountByState = PageState.allCases.map { filling.ledger.count(of: $0) }
      return statistics
    }
    statistics.demandLatency = demandLatency.histogram()
    return statistics
  }

  /// Whether no page is missing, asked for or staged.
  var isComplete: Bool { filling.withLock { $0.ledger.isComplete } }

  /// Whether seeds are not settled yet: until then nothing else may change a page.
  var isSeeding: Bool { awaitsSeeds.load(ordering: .acquiring) }

  /// The state of a page by its flat index.
  func state(ofPage page: Int) -> PageState { filling.withLock { $0.ledger[page] } }

  /// Pages that are missing, asked for, or staged.
  var unsettledPageCount: Int {
    filling.withLock { filling in
      PageState.allCases.reduce(0) { $1.isSettled ? $0 : $0 + filling.ledger.count(of: $1) }
    }
  }

  /// Lets every waiter of every region try again.
  func wakeEverybody() throws(UFFDError) {
    for entry in map.entries { try userfault.wake(entry.range) }
  }

  /// Lets those who wait for one page try again.
  func wake(_ page: Int) throws(UFFDError) {
    try userfault.wake(map.entry(holding: page).hostRange(page..<page + 1))
  }

  // MARK: Sweeps

  /// What a sweep looks for.
  enum SweepTarget: Hashable, Sendable {
    /// Pages that nobody asked for and no push brought. They count as asked for from now on.
    case missing
    /// Pages that were asked for, to be asked for again.
    case requested
  }

  /// The next run of such pages at or after `position`, no more than one request may name.
  /// `position` moves behind it, or behind what was looked at in vain; at the image's end it stays.
  func nextRun(_ target: SweepTarget, from position: inout Int) -> PageRun? {
    filling.withLock { filling in
      let end = min(position + Self.scanPageCount, filling.ledger.pageCount)
      let found =
        switch target {
        case .missing: filling.ledger.nextRun(of: .missing, in: position..<end)
        case .requested: filling.ledger.nextRequestedRun(in: position..<end)
        }
      guard let found else {
        position = end
        return nil
      }
      let entry = map.entry(holding: found.lowerBound)
      let limit = Int(WireLimits.maximumRunPageCount(of: entry.region.pageSize).rawValue)
      let last = min(
        found.upperBound, entry.flatRange.upperBound, found.lowerBound + limit)
      let run = found.lowerBound..<last
      if target == .missing {
        for page in run { _ = filling.ledger.fault(at: page) }
        filling.statistics.sweptPageCount += UInt64(run.count)
      }
      position = last
      return PageRun(
        region: entry.region.index, start: PageIndex(run.lowerBound - entry.firstFlatIndex),
        count: PageCount(run.count))
    }
  }

  /// The next pages at or after `position` that are all awaited from the source, or all not; no
  /// more than one look at the states finds. `position` must be inside the image.
  func residency(from position: Int) -> (pageCount: Int, isResident: Bool) {
    filling.withLock { filling in
      let end = min(position + Self.scanPageCount, filling.ledger.pageCount)
      let isResident = !filling.ledger[position].isAwaited
      var last = position + 1
      while last < end, filling.ledger[last].isAwaited != isResident { last += 1 }
      return (last - position, isResident)
    }
  }

  /// How many pages are asked for and not here.
  var requestedPageCount: Int { filling.withLock { $0.ledger.count(of: .requested) } }

  // MARK: The end

  /// Unregisters every region: the kernel answers their faults from now on, with zeros where
  /// nothing is. False, and nothing done, while a page is awaited. A region that is gone does not
  /// keep the others: each is tried, and the first error is thrown afterwards.
  func unregister() throws(UFFDError) -> Bool {
    try filling.withLock { filling throws(UFFDError) in
      guard filling.ledger.isComplete else { return false }
      var firstError: UFFDError?
      for entry in map.entries {
        do throws(UFFDError) {
          try userfault.unregister(entry.range)
        } catch {
          firstError = firstError ?? error
        }
      }
      if let firstError { throw firstError }
      return true
    }
  }

  /// Whether a REMOVE or another event is still on its way to us; asked after `unregister`. The
  /// kernel answers EAGAIN before it looks at anything else, and here nothing can be filled any
  /// more.
  func hasEventsUnderWay() -> Bool {
    filling.withLock { _ in
      let entry = map.entries[0]
      let probe = entry.hostRange(entry.firstFlatIndex..<entry.firstFlatIndex + 1)
      return (try? userfault.zero(probe)) == .retry
    }
  }
}
