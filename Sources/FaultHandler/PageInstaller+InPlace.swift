internal import Migration
internal import Pages
internal import Synchronization
internal import System
internal import UFFD

/// Why a seed cannot be dealt with: never a matter of memory, for lack of which pages just stay
/// missing.
enum SeedFailure: Error {
  /// What must not be in the guest's memory cannot be taken out of it: the VM must not run here.
  case stale(Errno)
  /// The kernel answered what has no meaning here.
  case userfault(UFFDError)
}

// Seeds in place. While they come, a page that holds something is staged in the ledger: it is
// marked before it is filled, and unmarked once it is seen to be gone. So the page states of a
// process that has died tell all that may be stale.
extension PageInstaller {
  /// Puts pages of one region into the guest's memory. Those for which there is no memory, or whose
  /// fill an unread event holds up, are missing then.
  func putInPlace(
    _ pages: Range<Int>, _ bytes: RawSpan, _ stage: Stage, _ filling: inout Filling
  ) throws(SeedFailure) {
    let shift = map.entry(holding: pages.lowerBound).region.pageSize.shift
    var rest = pages
    while !rest.isEmpty {
      let isThere = filling.ledger[rest.lowerBound] == .staged
      var end = rest.lowerBound + 1
      while end < rest.upperBound, (filling.ledger[end] == .staged) == isThere { end += 1 }
      let part = rest.lowerBound..<end
      let offset = (part.lowerBound - pages.lowerBound) << shift
      let content = bytes.extracting(offset..<offset + part.count << shift)
      if isThere {
        try overwrite(part, content, stage, &filling)
      } else {
        try copyInPlace(part, content, stage, &filling)
      }
      rest = end..<pages.upperBound
    }
  }

  private func overwrite(
    _ pages: Range<Int>, _ content: RawSpan, _ stage: Stage, _ filling: inout Filling
  ) throws(SeedFailure) {
    do throws(Errno) {
      try stage.write(content, at: imageRange(pages).lowerBound)
    } catch {
      // Half overwritten, perhaps.
      try lose(pages, stage, &filling)
    }
  }

  /// By COPY, which charges them to the VMM and never makes a huge page. Nobody is woken: whoever
  /// waits for such a page has a message that is read behind `startFaults`, finds it present, and
  /// is woken then.
  private func copyInPlace(
    _ pages: Range<Int>, _ content: RawSpan, _ stage: Stage, _ filling: inout Filling
  ) throws(SeedFailure) {
    let entry = map.entry(holding: pages.lowerBound)
    let size = entry.region.pageSize
    filling.ledger.staged(pages)
    var rest = pages
    while !rest.isEmpty {
      let outcome: RangeOutcome
      do throws(UFFDError) {
        outcome = try userfault.copy(
          content.extracting(((rest.lowerBound - pages.lowerBound) << size.shift)...),
          to: entry.hostRange(rest).start, waking: false)
      } catch {
        try takeOut(rest, stage, &filling)
        throw .userfault(error)
      }
      switch outcome {
      case .complete: rest = rest.upperBound..<rest.upperBound
      case .partial(let bytes):
        // Rounded down: the kernel stops between pages.
        rest = rest.lowerBound + Int(bytes.wholePages(of: size).rawValue)..<rest.upperBound
      case .exists:
        // Put there by nobody whom we know: this one page is not seeded.
        let unknown = rest.lowerBound..<rest.lowerBound + 1
        try lose(unknown, stage, &filling)
        rest = unknown.upperBound..<rest.upperBound
      case .retry:
        hasHeldUpSeeds.store(true, ordering: .relaxed)
        return try lose(rest, stage, &filling)
      // `gone`, `noMapping`: told by whoever needs it.
      case .outOfMemory, .gone, .noMapping: return try lose(rest, stage, &filling)
      }
    }
  }

  /// Seeds that did not get into the memory, or not whole: the source has the pages still.
  private func lose(
    _ pages: Range<Int>, _ stage: Stage, _ filling: inout Filling
  ) throws(SeedFailure) {
    try takeOut(pages, stage, &filling)
    filling.statistics.lostSeedPageCount += UInt64(pages.count)
  }

  /// The pages are missing again, in the memory and behind that in the ledger. Where the memory
  /// keeps them, no VM may run on it.
  func takeOut(
    _ pages: Range<Int>, _ stage: Stage, _ filling: inout Filling
  ) throws(SeedFailure) {
    do throws(Errno) { try stage.remove(imageRange(pages)) } catch {
      filling.seeding = .failed(error)
      throw .stale(error)
    }
    filling.ledger.discarded(pages)
  }

  /// Counts what was seeded as installed, in pieces, each a hold of the fill lock. The memory has
  /// the last word: what is not there is missing, and what nobody has seeded is taken out. The file
  /// is looked at without the lock, once from its front to its back: of a large one that takes a
  /// while (50 ns a page), and nobody changes it meanwhile. A file that was cut off, or that holds
  /// more or less than that in the end, is not the guest's memory: the seeds have failed.
  func settleInPlace(_ stage: Stage) throws(SeedFailure) {
    do throws(Errno) {
      var settledByteCount: UInt64 = 0
      for entry in map.entries { settledByteCount += try settle(entry, stage) }
      // Pages that were made by fallocate(2) and never written are no data to lseek(2), and yet no
      // holes to a fault: it would show them as zeros.
      guard try stage.allocatedByteCount(upTo: imageEnd) == settledByteCount else {
        throw .exists
      }
    } catch {
      filling.withLock { $0.seeding = .failed(error) }
      throw .stale(error)
    }
  }

  /// Where the last region ends in the image, in bytes.
  private var imageEnd: UInt64 {
    map.entries.reduce(0) { max($0, imageRange($1.flatRange).upperBound) }
  }

  /// How many bytes of one region were seeded and are there.
  private func settle(_ entry: HostRegionMap.Entry, _ stage: Stage) throws(Errno) -> UInt64 {
    var pageCount = 0
    var position = entry.firstFlatIndex
    let end = entry.flatRange.upperBound
    while position < end {
      let present = try nextPresent(in: position..<end, stage)
      try inPieces(position..<present.lowerBound) { hole, filling in
        // Taken out behind our back: the source has them still.
        while let lost = filling.ledger.nextRun(of: .staged, in: hole) {
          filling.ledger.discarded(lost)
        }
      }
      try inPieces(present) { piece, filling throws(Errno) in
        pageCount += try settle(present: piece, stage, &filling)
      }
      position = present.upperBound
    }
    return UInt64(pageCount) << UInt64(entry.region.pageSize.shift)
  }

  private func inPieces(
    _ pages: Range<Int>, _ body: (Range<Int>, inout Filling) throws(Errno) -> Void
  ) throws(Errno) {
    var position = pages.lowerBound
    while position < pages.upperBound {
      let end = min(position + Self.takeOutPageCount, pages.upperBound)
      try filling.withLock { filling throws(Errno) in try body(position..<end, &filling) }
      position = end
    }
  }

  /// The first pages of some of one region that hold something; none, at their end, when none do.
  private func nextPresent(
    in pages: Range<Int>, _ stage: Stage
  ) throws(Errno) -> Range<Int> {
    let image = imageRange(pages)
    let size = map.entry(holding: pages.lowerBound).region.pageSize
    guard let data = try stage.nextData(in: image) else {
      return pages.upperBound..<pages.upperBound
    }
    // The end is rounded up: it is no page's where the file was cut off meanwhile.
    let offset = data.lowerBound - image.lowerBound
    let end = data.upperBound - image.lowerBound + UInt64(size.byteCount - 1)
    let first = pages.lowerBound + Int(offset >> UInt64(size.shift))
    return first..<max(first + 1, pages.lowerBound + Int(end >> UInt64(size.shift)))
  }

  /// Pages that hold something; how many of them were seeded.
  private func settle(
    present: Range<Int>, _ stage: Stage, _ filling: inout Filling
  ) throws(Errno) -> Int {
    var pageCount = 0
    var position = present.lowerBound
    while position < present.upperBound {
      let staged = filling.ledger.nextRun(of: .staged, in: position..<present.upperBound)
      let unknown = position..<(staged?.lowerBound ?? present.upperBound)
      if !unknown.isEmpty { try stage.remove(imageRange(unknown)) }
      guard let staged else { break }
      filling.installed(staged)
      filling.statistics.inPlacePageCount += UInt64(staged.count)
      pageCount += staged.count
      position = staged.upperBound
    }
    return pageCount
  }
}
