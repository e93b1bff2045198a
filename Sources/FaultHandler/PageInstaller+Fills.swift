internal import Codec
internal import Migration
internal import Pages
internal import System
internal import UFFD

extension PageInstaller {
  /// Answers a fault on a page that the source is not needed for: zeros, poison, a seed, or a wake.
  func resolve(_ page: Int) throws(UFFDError) -> FillProgress {
    try filling.withLock { filling throws(UFFDError) in
      var progress = FillProgress(remaining: page..<page + 1)
      switch filling.ledger[page] {
      // Asked for in the meantime: its answer wakes the waiter.
      case .missing, .requested: progress.remaining = page + 1..<page + 1
      case .zero, .removed, .present: try zero(&progress, &filling)
      case .poisoned: try poison(&progress, &filling)
      case .staged: try fillStaged(&progress, page..<page + 1, &filling)
      }
      progress.milestone = filling.nextMilestone()
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
      progress.milestone = filling.nextMilestone()
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
      filling.statistics.zeroReportedPageCount += UInt64(marked)
      var progress = FillProgress(remaining: end..<remaining.upperBound)
      if waiterCount > 0, let waited = filling.ledger.nextRequestedRun(in: part) {
        // One page a hold: a huge page of zeros is a copy of 2 MiB.
        progress.remaining = waited.lowerBound..<waited.lowerBound + 1
        let filledBefore = filling.statistics.zeroFilledPageCount
        try zero(&progress, &filling)
        filling.statistics.zeroReportedPageCount +=
          filling.statistics.zeroFilledPageCount - filledBefore
        progress.remaining = progress.remaining.lowerBound..<remaining.upperBound
      }
      progress.milestone = filling.nextMilestone()
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
      progress.milestone = filling.nextMilestone()
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
  func advance(
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
      switch filling.ledger[page.lowerBound] {
      // What is there is the poison: content would never come for it, and must not be believed in.
      case .poisoned: break
      case .present: filling.installed(page)
      case .missing, .requested, .zero, .removed, .staged:
        filling.statistics.foundPresentPageCount += 1
        filling.installed(page)
      }
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
}
