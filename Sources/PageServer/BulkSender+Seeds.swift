internal import Codec
internal import Pages
internal import System
internal import Wire

// Seeds: pages that are sent while the VM runs, and may have been sent before.
extension BulkSender {
  /// Sends a run of the round, what it names as stale, or its end; false when there is none.
  mutating func sendSeeds() throws(ServeError) -> Bool {
    if let run = context.seeds.next() {
      do throws(MemoryError) {
        // The VM runs: what is read here is a copy that nobody changes any more, and what is
        // written meanwhile is in the log.
        try loader.load(run)
      } catch {
        throw .memory(error)
      }
      if let cache = context.deltas { loader.compare(with: cache, round: context.seeds.round) }
      noteDigests()
      let flat = context.layout.flatRange(of: run)
      let sentCount = try sendLoaded(for: .seed)
      context.seeds.skip(flat.lowerBound + sentCount..<flat.upperBound)
      for page in loader.poisonedPages {
        context.seeds.skip(flat.lowerBound + page..<flat.lowerBound + page + 1)
      }
      return true
    }
    if let stale = context.seeds.takeStale() { try sendDiscards(stale, areLast: false) }
    guard let round = context.seeds.takeEnd(on: position) else { return false }
    try transmit(SeedRound.endFrame(round, session: context.session.shortID).rawBytes)
    return true
  }

  /// Whoever looks for what was written looks for what is not as it was read here. Also of pages
  /// that come to be left out: those are sent again, whatever the log says.
  private mutating func noteDigests() {
    guard let digests = context.digests else { return }
    let round = context.seeds.round
    for page in 0..<loader.pageCount where loader.isSound(page) {
      let segment = RunSegment(kind: .content, start: page, pageCount: 1)
      let digest = Self.digest(loader, segment, by: &hasher)
      digests.sent(loader.flatRange(of: segment).lowerBound, digest, round: round)
    }
  }

  // A span of one property and a change of another: apart from `self` they exclude each other not.
  private static func digest(
    _ loader: borrowing RunLoader, _ segment: RunSegment, by hasher: inout PageHasher
  ) -> PageDigest { hasher.digest(of: loader.pageBytes(segment)) }

  // Before they are sent: what is told of them must find them noted.

  /// Pages go with their contents; as a frame of what has changed of them, if that was made.
  func noteSeeds(_ segment: RunSegment, _ delta: Range<Int>?) {
    context.punches.sending(loader.flatRange(of: segment))
    let byteCount = segment.pageCount * loader.pageByteCount
    // What is left for the VM's pause goes as whole pages, so deltas say nothing of how long that
    // would take; packing does.
    context.seeds.sending(
      loader.flatRange(of: segment), byteCount: UInt64(byteCount),
      savedByteCount: UInt64(delta.map { byteCount - $0.count } ?? 0), on: position)
  }

  /// Pages are told to be zeros.
  func noteZeros(_ segment: RunSegment) {
    let pages = loader.flatRange(of: segment)
    context.seeds.sending(pages, byteCount: 0, on: position)
    context.deltas?.forget(pages)
  }

  /// The destination has these pages as they are.
  func noteSame(_ segment: RunSegment) {
    context.punches.sending(loader.flatRange(of: segment))
    context.seeds.sending(
      loader.flatRange(of: segment), byteCount: 0,
      savedByteCount: UInt64(segment.pageCount * loader.pageByteCount), on: position)
    context.counters.sentSegment(.same, pageCount: segment.pageCount, for: .seed)
  }

  /// The frame of what has changed of a segment of seeds, where that is known and faster. From then
  /// on they are known as they are now.
  mutating func makeDelta(_ segment: RunSegment) -> Range<Int>? {
    guard let cache = context.deltas, loader.pageByteCount == PageSize.small.byteCount else {
      return nil
    }
    var frame: Range<Int>?
    if segment.isKnown, packing.makesDeltas {
      let start = MonotonicClock.now()
      frame = packer.makeDeltaFrame(
        loader, segment, since: cache, sequence: sequence, as: packing.deltaEncoding)
      let pageByteCount = segment.pageCount * loader.pageByteCount
      packing.madeDelta(
        of: pageByteCount,
        sentByteCount: frame.map { $0.count - WireLimits.headerByteCount } ?? pageByteCount,
        nanoseconds: MonotonicClock.now().nanoseconds(since: start))
    }
    cache.sent(
      loader.flatRange(of: segment), loader.pageBytes(segment), round: context.seeds.round,
      takesNew: packing.keepsSeeds)
    return frame
  }
}
