internal import Pages

/// What a session remembers of the seeds that it has sent, over all its links.
final class SentSeeds: Sendable {
  /// Their contents, as the destination has them; nil when they are not kept.
  let deltas: DeltaCache?
  /// Their digests, for whoever wants them.
  let digests: SentDigests
  /// Which of them are not there any more, for whoever wants to know.
  let punches: PunchWatch

  /// With a cache of so many bytes; 0: none.
  init(deltaCacheByteCount: UInt64) {
    // Without even a page of memory for it everything is sent whole.
    deltas = deltaCacheByteCount == 0 ? nil : try? DeltaCache(byteCount: deltaCacheByteCount)
    digests = SentDigests()
    punches = PunchWatch()
  }

  /// Rounds of an image begin.
  func begin(_ layout: ImageLayout) {
    // Huge pages are not kept; their flat indices are few.
    _ = deltas?.begin(imagePageCount: Int(layout.totalPageCount.rawValue))
  }

  /// A round is lost with its link; these pages of it the destination has taken in. Threads of that
  /// link may still be about to send: that counts no more.
  func lost(round: UInt64, except taken: PageBitmap) {
    deltas?.lost(round: round, except: taken)
    digests.lost(round: round)
  }

  /// The destination drops what it has of these pages.
  func discarded(_ pages: PageBitmap) {
    var position = 0
    while let run = pages.nextRun(
      from: position, before: pages.pageCount, limit: pages.pageCount)
    {
      deltas?.forget(run)
      position = run.upperBound
    }
  }

  /// Nothing is sent as a seed any more, nor looked for.
  func end() {
    deltas?.end()
    digests.end()
    punches.end()
  }
}
