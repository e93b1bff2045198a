internal import Codec
internal import Migration
internal import Pages
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
  /// Whether nothing is awaited from the source any more. True for one fill only.
  var completesImage = false
}

/// Where pages come from.
enum PageOrigin: Hashable, Sendable { case demand, push }

/// The only place that changes the VMM's memory and what we know of it.
///
/// Every check + fill + mark, and every read of messages + mark, happens under one lock, the *fill
/// lock*: reading a REMOVE lets the guest's madvise go on, and a fill that was decided before must
/// not come after (kernel fact 6). No hold is longer than a read of 64 messages, one fill of 64 KiB
/// or of one huge page, or a look at `scanPageCount` states.
final class PageInstaller: Sendable {
  /// Bounds the states looked at in one hold of the lock: some tens of microseconds.
  static let scanPageCount = 16_384

  let map: HostRegionMap
  let layout: ImageLayout
  private let userfault: UserfaultHandle
  /// One huge page of zeros where the image has huge pages: they have no ZEROPAGE.
  private let zeros: [UInt8]
  private let filling: Lock<Filling>
  private let demandLatency = LatencyRecorder()

  private struct Filling {
    var ledger: PageLedger<MappedPageStates>
    var demands = DemandTable()
    var statistics = DataPlaneStatistics()
    var hasAnnouncedCompletion = false
    let demandLatency: LatencyRecorder

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

    /// True once, when the last awaited page was settled.
    mutating func announcesCompletion() -> Bool {
      guard ledger.isComplete, !hasAnnouncedCompletion else { return false }
      hasAnnouncedCompletion = true
      return true
    }
  }

  init(
    document: AttachDocument, kinds: [MemoryKind], userfault: UserfaultHandle,
    ledger: sending PageLedger<MappedPageStates>
  ) {
    map = HostRegionMap(document, kinds: kinds)
    layout = document.layout
    self.userfault = userfault
    let hasHugePages = document.layout.regions.contains { $0.pageSize == .huge }
    zeros = [UInt8](repeating: 0, count: hasHugePages ? PageSize.huge.byteCount : 0)
    filling = Lock(Filling(ledger: ledger, demandLatency: demandLatency))
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

  /// Whether no page is missing or asked for.
  var isComplete: Bool { filling.withLock { $0.ledger.isComplete } }

  /// The state of a page by its flat index.
  func state(ofPage page: Int) -> PageState { filling.withLock { $0.ledger[page] } }

  /// Pages that are missing or asked for.
  var awaitedPageCount: Int {
    filling.withLock { $0.ledger.count(of: .missing) + $0.ledger.count(of: .requested) }
  }

  /// Lets every waiter of every region try again.
  func wakeEverybody() throws(UFFDError) {
    for entry in map.entries { try userfault.wake(entry.range) }
  }

  /// Lets those who wait for one page try again.
  func wake(_ page: Int) throws(UFFDError) {
    try userfault.wake(map.entry(holding: page).hostRange(page..<page + 1))
  }

  // MARK: Messages

  /// Reads one buffer of messages, marks what they change and decides each fault; the batch, which
  /// is emptied first, gets what is left to do. Answers how many messages there were.
  func readMessages(
    into buffer: inout UserfaultMessageBuffer, batch: inout FaultBatch
  ) throws(UFFDError) -> Int {
    batch.removeAll()
    return try filling.withLock { filling throws(UFFDError) in
      let count = try userfault.read(into: &buffer)
      guard count > 0 else { return 0 }
      // Changes first: a fault that was queued before a REMOVE of its page is then answered with
      // zeros at once, not with a request whose answer would be void.
      for position in 0..<count { try mark(position, in: &buffer, &batch, &filling) }
      let now = MonotonicClock.now()
      for position in 0..<count {
        if case .fault(let fault) = buffer[position] { decide(fault, now, &batch, &filling) }
      }
      batch.completesImage = filling.announcesCompletion()
      return count
    }
  }

  private func mark(
    _ position: Int, in buffer: inout UserfaultMessageBuffer, _ batch: inout FaultBatch,
    _ filling: inout Filling
  ) throws(UFFDError) {
    switch buffer[position] {
    case .fault: break
    case .remove(let range):
      for entry in map.entries where entry.range.overlaps(range) {
        let pages = entry.pages(inside: range)
        let outcome = filling.ledger.removed(pages, from: entry.kind)
        filling.statistics.removedPageCount += UInt64(outcome.removedCount)
        if outcome.waiterCount > 0 { try userfault.wake(entry.hostRange(pages)) }
      }
    case .unmap(let range):
      // What is not mapped any more is not needed any more, whatever kind of memory it was. Its
      // waiters fail by themselves.
      for entry in map.entries where entry.range.overlaps(range) {
        let pages = entry.pages(inside: range)
        let outcome = filling.ledger.removed(pages, from: .privateAnonymous)
        filling.statistics.removedPageCount += UInt64(outcome.removedCount)
      }
      batch.append(change: .unmap(range))
    case .fork:
      // Never closed: the child would read zeros for every page that is missing.
      if let child = try buffer.takeForkedDescriptor(at: position) {
        batch.children.append(child.release())
      }
      batch.append(change: .fork)
    case .remap(let source, let target):
      batch.append(change: .remap(source: source, target: target))
    case .unknown(let kind):
      batch.append(change: .unknown(kind: kind))
    }
  }

  private func decide(
    _ fault: PageFault, _ now: Instant, _ batch: inout FaultBatch, _ filling: inout Filling
  ) {
    filling.statistics.faultCount += 1
    guard let page = map.flatIndex(at: fault.address, hint: &batch.regionHint) else {
      batch.append(outside: fault.address)
      return
    }
    switch filling.ledger.fault(at: page) {
    case .request:
      filling.statistics.demandCount += 1
      if !filling.demands.insert(page, at: now) { filling.statistics.untimedDemandCount += 1 }
      batch.append(request: page)
    case .alreadyRequested:
      filling.statistics.repeatedFaultCount += 1
      // One that a sweep asked for is timed from now on.
      filling.demands.insert(page, at: now)
    case .refillOrWake:
      filling.statistics.repeatedFaultCount += 1
      batch.append(fill: page)
    case .zeroFill, .poison:
      batch.append(fill: page)
    }
  }

  // MARK: Fills

  /// Answers a fault on a page that the source is not needed for: zeros, poison, or a wake.
  func resolve(_ page: Int) throws(UFFDError) -> FillProgress {
    try filling.withLock { filling throws(UFFDError) in
      var progress = FillProgress(remaining: page..<page + 1)
      switch filling.ledger[page] {
      // Asked for in the meantime: its answer wakes the waiter.
      case .missing, .requested: progress.remaining = page + 1..<page + 1
      case .zero, .removed, .present: try zero(&progress, &filling)
      case .poisoned: try poison(&progress, &filling)
      }
      progress.completesImage = filling.announcesCompletion()
      return progress
    }
  }

  /// Installs pages from `bytes`, which start with the first page of `remaining`; pages that are
  /// not awaited any more are dropped. Their waiters are woken in the same call.
  func install(
    _ remaining: Range<Int>, from bytes: RawSpan, _ origin: PageOrigin
  ) throws(UFFDError) -> FillProgress {
    try filling.withLock { filling throws(UFFDError) in
      var progress = FillProgress(remaining: remaining)
      let entry = map.entry(holding: remaining.lowerBound)
      let shift = entry.region.pageSize.shift
      while progress.obstacle == nil, !progress.remaining.isEmpty {
        let wanted = filling.ledger.nextAwaitedRun(in: progress.remaining)
        let next = wanted?.lowerBound ?? remaining.upperBound
        filling.statistics.droppedPageCount += UInt64(next - progress.remaining.lowerBound)
        progress.remaining = next..<remaining.upperBound
        guard let wanted else { break }
        let offset = (wanted.lowerBound - remaining.lowerBound) << shift
        let outcome = try userfault.copy(
          bytes.extracting(offset..<offset + wanted.count << shift),
          to: entry.hostRange(wanted).start)
        let doneCount = try advance(&progress, past: wanted, outcome, entry, &filling)
        if doneCount > 0 { filling.statistics.copyCount += 1 }
        switch origin {
        case .demand:
          filling.statistics.demandedPageCount += UInt64(doneCount)
          filling.statistics.demandedByteCount += UInt64(doneCount << shift)
        case .push:
          filling.statistics.pushedPageCount += UInt64(doneCount)
          filling.statistics.pushedByteCount += UInt64(doneCount << shift)
        }
      }
      progress.completesImage = filling.announcesCompletion()
      return progress
    }
  }

  /// Notes that the range reads as zeros at the source, and fills those pages that somebody waits
  /// for. At most `scanPageCount` pages are looked at; the rest stays in `remaining`.
  func zeroArrived(_ remaining: Range<Int>) throws(UFFDError) -> FillProgress {
    try filling.withLock { filling throws(UFFDError) in
      let end = min(remaining.upperBound, remaining.lowerBound + Self.scanPageCount)
      let part = remaining.lowerBound..<end
      let before = filling.ledger.count(of: .zero)
      let waiterCount = filling.ledger.zeroArrived(part)
      let marked = filling.ledger.count(of: .zero) - before
      filling.statistics.zeroMappedPageCount += UInt64(marked)
      var progress = FillProgress(remaining: end..<remaining.upperBound)
      if waiterCount > 0, let waited = filling.ledger.nextRequestedRun(in: part) {
        // One page a hold: a huge page of zeros is a copy of 2 MiB.
        progress.remaining = waited.lowerBound..<waited.lowerBound + 1
        try zero(&progress, &filling)
        progress.remaining = progress.remaining.lowerBound..<remaining.upperBound
      }
      progress.completesImage = filling.announcesCompletion()
      return progress
    }
  }

  /// Poisons the awaited pages of the range.
  func poisonArrived(_ remaining: Range<Int>) throws(UFFDError) -> FillProgress {
    try filling.withLock { filling throws(UFFDError) in
      var progress = FillProgress(remaining: remaining)
      while progress.obstacle == nil, !progress.remaining.isEmpty {
        guard let wanted = filling.ledger.nextAwaitedRun(in: progress.remaining) else {
          progress.remaining = remaining.upperBound..<remaining.upperBound
          break
        }
        progress.remaining = wanted.lowerBound..<remaining.upperBound
        try poison(&progress, &filling)
      }
      progress.completesImage = filling.announcesCompletion()
      return progress
    }
  }

  /// Zeros at the first page of `remaining`.
  private func zero(_ progress: inout FillProgress, _ filling: inout Filling) throws(UFFDError) {
    let page = progress.remaining.lowerBound..<progress.remaining.lowerBound + 1
    let entry = map.entry(holding: page.lowerBound)
    let range = entry.hostRange(page)
    let outcome: RangeOutcome
    switch entry.region.pageSize {
    case .small: outcome = try userfault.zero(range)
    case .huge:
      let zeros = zeros
      outcome = try userfault.copy(zeros.rawBytes, to: range.start)
    }
    let doneCount = try advance(&progress, past: page, outcome, entry, &filling)
    filling.statistics.zeroFilledPageCount += UInt64(doneCount)
  }

  /// Poison at the first page of `remaining`.
  private func poison(_ progress: inout FillProgress, _ filling: inout Filling) throws(UFFDError) {
    let page = progress.remaining.lowerBound..<progress.remaining.lowerBound + 1
    let entry = map.entry(holding: page.lowerBound)
    do throws(UFFDError) {
      let outcome = try userfault.poison(entry.hostRange(page))
      if outcome == .complete {
        filling.ledger.poisoned(page)
        filling.settleDemands(page)
        filling.statistics.poisonedPageCount += 1
        progress.remaining = page.upperBound..<progress.remaining.upperBound
      } else {
        _ = try advance(&progress, past: page, outcome, entry, &filling)
      }
    } catch {
      // EINVAL: a kernel before 6.6. Anything else has no meaning here.
      guard error.errno == .invalidArgument else { throw error }
      progress.obstacle = .noPoison
    }
  }

  /// Marks what a fill of `wanted` has achieved; answers how many pages it installed.
  private func advance(
    _ progress: inout FillProgress, past wanted: Range<Int>, _ outcome: RangeOutcome,
    _ entry: HostRegionMap.Entry, _ filling: inout Filling
  ) throws(UFFDError) -> Int {
    var done = wanted.lowerBound..<wanted.lowerBound
    switch outcome {
    case .complete: done = wanted
    case .partial(let bytes):
      // Rounded down: the kernel stops between pages.
      let count = Int(bytes.wholePages(of: entry.region.pageSize).rawValue)
      done = wanted.lowerBound..<wanted.lowerBound + count
    case .exists:
      // Proves that the page is there, not that its waiter was woken (kernel fact 3).
      let page = wanted.lowerBound..<wanted.lowerBound + 1
      try userfault.wake(entry.hostRange(page))
      if filling.ledger[page.lowerBound] != .present {
        filling.statistics.foundPresentPageCount += 1
      }
      filling.installed(page)
      progress.remaining = page.upperBound..<progress.remaining.upperBound
      return 0
    case .retry:
      filling.statistics.retryCount += 1
      progress.obstacle = .retry
    case .gone: progress.obstacle = .gone
    case .noMapping: progress.obstacle = .noMapping
    case .outOfMemory: progress.obstacle = .outOfMemory
    }
    if !done.isEmpty { filling.installed(done) }
    progress.remaining = done.upperBound..<progress.remaining.upperBound
    return done.count
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

  /// How many pages are asked for and not here.
  var requestedPageCount: Int { filling.withLock { $0.ledger.count(of: .requested) } }

  // MARK: The end

  /// Unregisters every region: the kernel answers their faults from now on, with zeros where
  /// nothing is. False, and nothing done, while a page is awaited.
  func unregister() throws(UFFDError) -> Bool {
    try filling.withLock { filling throws(UFFDError) in
      guard filling.ledger.isComplete else { return false }
      for entry in map.entries { try userfault.unregister(entry.range) }
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
