internal import Migration
internal import Pages
internal import System
internal import UFFD
internal import Wire

// Seeds: pages that come while the VM still runs at the source. Nothing is installed before faults
// are answered, so a stale seed is never in the guest's memory (P3). Each of these tells whether
// seeds may come at all: false breaks the protocol, and has changed nothing.
extension PageInstaller {
  /// Stages a run; `bytes` are its pages. Those for which this host has no memory are missing then.
  func stageSeeds(_ run: PageRun, _ bytes: RawSpan) -> Bool {
    let pages = layout.flatRange(of: run)
    return filling.withLock { filling in
      guard let stage, filling.takesSeeds else { return false }
      for page in pages { filling.zeroSeeds?.remove(page) }
      do throws(Errno) {
        try stage.write(bytes, at: imageRange(pages).lowerBound)
        filling.ledger.staged(pages)
      } catch {
        // An earlier seed may be half overwritten.
        filling.ledger.discarded(pages)
      }
      filling.statistics.seededPageCount += UInt64(pages.count)
      filling.statistics.seededByteCount += UInt64(bytes.byteCount)
      return true
    }
  }

  /// Gives `body` what is staged of a run; false, and nothing given, unless all of it is. What came
  /// on one connection changes nothing of what another one brings: they bring different pages.
  func withStaged(_ run: PageRun, _ body: (RawSpan) -> Void) -> Bool {
    let pages = layout.flatRange(of: run)
    return filling.withLock { filling in
      guard let stage, filling.takesSeeds,
        filling.ledger.nextRun(of: .staged, in: pages) == pages
      else { return false }
      return stage.withBytes(imageRange(pages), body) != nil
    }
  }

  /// Notes that a run read as zeros when it was seeded.
  func seedZeros(_ run: PageRun) -> Bool {
    let pages = layout.flatRange(of: run)
    return filling.withLock { filling in
      guard let stage, filling.takesSeeds else { return false }
      if filling.ledger.nextRun(of: .staged, in: pages) != nil { stage.drop(imageRange(pages)) }
      filling.ledger.discarded(pages)
      for page in pages { filling.zeroSeeds?.insert(page) }
      filling.statistics.seededPageCount += UInt64(pages.count)
      return true
    }
  }

  /// Forgets the seeds of the first of some pages, `scanPageCount` at most, and takes them off the
  /// range: they are stale. Their memory is given back later: the guest stands still meanwhile.
  func discardSeeds(_ remaining: inout Range<Int>) -> Bool {
    let end = min(remaining.upperBound, remaining.lowerBound + Self.scanPageCount)
    let part = remaining.lowerBound..<end
    let isTaken = filling.withLock { filling in
      guard filling.takesSeeds else { return false }
      filling.ledger.discarded(part)
      for page in part { filling.zeroSeeds?.remove(page) }
      return true
    }
    if isTaken { remaining = end..<remaining.upperBound }
    return isTaken
  }

  /// No seed and no discard comes any more. What the image has come to by that.
  func endSeeds() -> ImageMilestone? {
    filling.withLock { filling in
      guard let zeros = filling.zeroSeeds, filling.takesSeeds else { return nil }
      var position = 0
      while let run = zeros.nextRun(
        from: position, before: zeros.pageCount, limit: zeros.pageCount)
      {
        _ = filling.ledger.zeroArrived(run)
        position = run.upperBound
      }
      filling.statistics.zeroReportedPageCount += UInt64(zeros.setCount)
      filling.zeroSeeds = nil
      filling.takesSeeds = false
      return filling.nextMilestone()
    }
  }

  /// Installs the next staged pages of the range from the stage, one fill's worth.
  func installStaged(_ remaining: Range<Int>) throws(UFFDError) -> FillProgress {
    try filling.withLock { filling throws(UFFDError) in
      let end = min(remaining.upperBound, remaining.lowerBound + Self.scanPageCount)
      var progress = FillProgress(remaining: end..<remaining.upperBound)
      if let found = filling.ledger.nextRun(of: .staged, in: remaining.lowerBound..<end) {
        progress.remaining = found.lowerBound..<remaining.upperBound
        try fillStaged(&progress, found, &filling)
      }
      progress.milestone = filling.nextMilestone()
      return progress
    }
  }

  /// Gives all memory of the stage back, once nothing is staged any more.
  func clearStage() {
    filling.withLock { filling in
      if !filling.takesSeeds, filling.ledger.count(of: .staged) == 0 { stage?.clear() }
    }
  }

  /// Fills the first of some staged pages, `progress.remaining` beginning with them.
  func fillStaged(
    _ progress: inout FillProgress, _ found: Range<Int>, _ filling: inout Filling
  ) throws(UFFDError) {
    guard let stage else { invariantBroken("only a plane with a stage has staged pages") }
    let entry = map.entry(holding: found.lowerBound)
    let limit = Int(WireLimits.maximumRunPageCount(of: entry.region.pageSize).rawValue)
    let last = min(found.upperBound, entry.flatRange.upperBound, found.lowerBound + limit)
    let wanted = found.lowerBound..<last
    let outcome = try stage.withBytes(imageRange(wanted)) { bytes throws(UFFDError) in
      try userfault.copy(bytes, to: entry.hostRange(wanted).start)
    }
    guard let outcome else {
      // The stage cannot be read: its pages are the source's to send, and whoever waits asks anew.
      filling.ledger.discarded(wanted)
      try userfault.wake(entry.hostRange(wanted))
      progress.hasLostSeeds = true
      progress.remaining = wanted.upperBound..<progress.remaining.upperBound
      return
    }
    let doneCount = try advance(&progress, past: wanted, outcome, entry, &filling)
    guard doneCount > 0 else { return }
    filling.statistics.copyCount += 1
    filling.statistics.stageInstalledPageCount += UInt64(doneCount)
    stage.drop(imageRange(wanted.lowerBound..<wanted.lowerBound + doneCount))
  }

  /// Where pages of one region lie in the image, in bytes.
  private func imageRange(_ pages: Range<Int>) -> Range<UInt64> {
    let entry = map.entry(holding: pages.lowerBound)
    let shift = UInt64(entry.region.pageSize.shift)
    let start =
      entry.region.imageOffset.rawValue + UInt64(pages.lowerBound - entry.firstFlatIndex) << shift
    return start..<start + UInt64(pages.count) << shift
  }
}
