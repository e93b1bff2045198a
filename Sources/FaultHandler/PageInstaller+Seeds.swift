internal import Migration
internal import Pages
internal import Synchronization
internal import System
internal import UFFD
internal import Wire

// Seeds: pages that come while the VM still runs at the source. Nothing is installed before faults
// are answered, and nobody reads the memory before: so no stale seed is ever seen (P3). Each of
// these tells whether seeds may come at all: false breaks the protocol, and has changed nothing.
extension PageInstaller {
  /// Whether a frame of that type may come now. While seeds come they alone change pages: one that
  /// is installed could take none, and nobody has asked for any.
  func mayTake(_ type: FrameType) -> Bool {
    switch type {
    case .pages, .zeroPages, .poisonedPages, .zeroMap, .pushFinished: !isSeeding
    default: true
    }
  }

  /// Stages a run; `bytes` are its pages. Those for which this host has no memory are missing then.
  func stageSeeds(_ run: PageRun, _ bytes: RawSpan) throws(SeedFailure) -> Bool {
    let pages = layout.flatRange(of: run)
    return try filling.withLock { filling throws(SeedFailure) in
      guard let stage, try filling.takesSeeds(of: pages) else { return false }
      for page in pages { filling.zeroSeeds?.remove(page) }
      if stage.isInPlace {
        try putInPlace(pages, bytes, stage, &filling)
      } else {
        do throws(Errno) {
          try stage.write(bytes, at: imageRange(pages).lowerBound)
          filling.ledger.staged(pages)
        } catch {
          // An earlier seed may be half overwritten.
          filling.ledger.discarded(pages)
        }
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
      guard let stage, (try? filling.takesSeeds(of: pages)) == true,
        filling.ledger.nextRun(of: .staged, in: pages) == pages
      else { return false }
      return stage.withBytes(imageRange(pages), body) != nil
    }
  }

  /// Notes that a run read as zeros when it was seeded.
  func seedZeros(_ run: PageRun) throws(SeedFailure) -> Bool {
    let pages = layout.flatRange(of: run)
    return try filling.withLock { filling throws(SeedFailure) in
      guard let stage, try filling.takesSeeds(of: pages) else { return false }
      if filling.ledger.nextRun(of: .staged, in: pages) != nil {
        if stage.isInPlace {
          try takeOut(pages, stage, &filling)
        } else {
          stage.drop(imageRange(pages))
        }
      }
      filling.ledger.discarded(pages)
      for page in pages { filling.zeroSeeds?.insert(page) }
      filling.statistics.seededPageCount += UInt64(pages.count)
      return true
    }
  }

  /// Forgets the seeds of the first of some pages, `scanPageCount` at most, and in place
  /// `takeOutPageCount`, and takes them off the range: they are stale. Unless they are in place,
  /// their memory is given back later: the guest stands still meanwhile.
  func discardSeeds(_ remaining: inout Range<Int>) throws(SeedFailure) -> Bool {
    let limit = stage?.isInPlace == true ? Self.takeOutPageCount : Self.scanPageCount
    let end = min(remaining.upperBound, remaining.lowerBound + limit)
    let part = remaining.lowerBound..<end
    remaining = end..<remaining.upperBound
    return try filling.withLock { filling throws(SeedFailure) in
      guard let stage, try filling.takesSeeds(of: part) else { return false }
      if stage.isInPlace, filling.ledger.nextRun(of: .staged, in: part) != nil {
        try takeOut(part, stage, &filling)
      }
      filling.ledger.discarded(part)
      for page in part { filling.zeroSeeds?.remove(page) }
      return true
    }
  }

  /// No seed and no discard comes any more. What the image has come to by that. Whoever comes
  /// second waits for the first. When it throws, the pages are not settled: no fault may be
  /// answered.
  func endSeeds() throws(SeedFailure) -> ImageMilestone? {
    try ending.withLock { _ throws(SeedFailure) in
      let isFirst = try filling.withLock { filling throws(SeedFailure) in
        try filling.refuseSeeds()
      }
      guard let stage, isFirst else { return nil }
      if stage.isInPlace { try settleInPlace(stage) }
      let milestone = filling.withLock { filling in
        filling.seeding = .over
        return filling.nextMilestone()
      }
      awaitsSeeds.store(false, ordering: .releasing)
      return milestone
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
      if filling.seeding == .over, filling.ledger.count(of: .staged) == 0 { stage?.clear() }
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
  func imageRange(_ pages: Range<Int>) -> Range<UInt64> {
    let entry = map.entry(holding: pages.lowerBound)
    let shift = UInt64(entry.region.pageSize.shift)
    let start =
      entry.region.imageOffset.rawValue + UInt64(pages.lowerBound - entry.firstFlatIndex) << shift
    return start..<start + UInt64(pages.count) << shift
  }
}
