internal import Pages
internal import System

/// The looks at the log of writes that belong to one round: those in its middle, and the one behind
/// it.
///
/// A page that is written before it is sent need not be sent again: what a look in the middle tells
/// counts only of pages that were taken already. And how fast a guest writes shows over stretches
/// as short as the next round: over the whole of a long one it seems slow, since a page that is
/// written twice counts once. Each look costs the guest a fault for every page that it goes on
/// writing, so they are few.
struct RoundLooks {
  private struct Stretch {
    var written: PageBitmap
    var nanoseconds: UInt64
  }

  /// A look follows each eighth of the round.
  private static let partCount = 8
  /// Nor does one follow another sooner than this.
  private static let shortestNanoseconds: UInt64 = 100_000_000
  /// Looking takes no more than a twentieth of the time.
  private static let costFactor: UInt64 = 20

  private let pageCount: Int
  private var stretches: [Stretch] = []
  private var lastLook: Instant
  private var lastTakenCount = 0
  private var costNanoseconds: UInt64 = 0
  /// Pages that were written when they had been taken already, as the looks in the middle tell.
  private(set) var stale: PageBitmap

  /// Before a round of so many pages, of an image of so many.
  init(pageCount: Int, imagePageCount: Int, start: Instant) {
    self.pageCount = pageCount
    lastLook = start
    stale = PageBitmap(pageCount: imagePageCount)
  }

  /// Whether it is time for a look, so many of the round's pages having been taken.
  func isDue(_ now: Instant, takenCount: Int) -> Bool {
    let part = max(pageCount / Self.partCount, 1)
    // The end of the round has a look of its own.
    guard takenCount - lastTakenCount >= part, takenCount <= pageCount - part else { return false }
    return now.nanoseconds(since: lastLook)
      >= max(Self.shortestNanoseconds, costNanoseconds * Self.costFactor)
  }

  /// A look in the middle, begun at `start`, told of these pages. `untaken`, asked for behind it,
  /// are the pages of the round that nobody has begun to read: what is read later holds what was
  /// written before the look.
  mutating func lookedMidway(
    _ written: PageBitmap, untaken: PageBitmap, takenCount: Int, from start: Instant,
    to end: Instant
  ) {
    var known = written
    known.subtract(untaken)
    stale.formUnion(known)
    note(written, at: start)
    lastTakenCount = takenCount
    costNanoseconds = end.nanoseconds(since: start)
  }

  /// The look behind the round.
  mutating func lookedLast(_ written: PageBitmap, at end: Instant) { note(written, at: end) }

  private mutating func note(_ written: PageBitmap, at time: Instant) {
    stretches.append(Stretch(written: written, nanoseconds: time.nanoseconds(since: lastLook)))
    lastLook = time
  }

  /// What was written in the last stretches of the round that are together as long as that, or in
  /// all of them, and how long they were.
  func written(inLast nanoseconds: UInt64) -> (pages: PageBitmap, nanoseconds: UInt64) {
    var pages = PageBitmap(pageCount: stale.pageCount)
    var covered: UInt64 = 0
    for stretch in stretches.reversed() {
      pages.formUnion(stretch.written)
      covered += stretch.nanoseconds
      if covered >= nanoseconds { break }
    }
    return (pages, covered)
  }
}
