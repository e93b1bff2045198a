internal import Pages
internal import Synchronization
internal import System

/// Tells the push where the demands are: a ring without locks from the urgent thread, which only
/// ever adds, to the one thread at a time that asks the policy.
///
/// When it is full the hint is dropped: the push then follows older faults for a moment, and no
/// page depends on it.
final class DemandHints: Sendable {
  /// Demands that may wait while one run is pushed (some 50 µs): more than a link can ask for.
  static let capacity = 256

  private let slots = AtomicCounts(count: capacity)
  private let written = Atomic<UInt64>(0)
  private let read = Atomic<UInt64>(0)

  /// Adds a run; false when it was dropped. For the urgent thread alone.
  func post(_ run: PageRun) -> Bool {
    let position = written.load(ordering: .relaxed)
    guard position - read.load(ordering: .acquiring) < UInt64(Self.capacity) else { return false }
    slots.store(Self.pack(run), at: Int(position % UInt64(Self.capacity)))
    written.store(position + 1, ordering: .releasing)
    return true
  }

  /// The oldest run; nil when there is none. For one thread at a time.
  func take() -> PageRun? {
    let position = read.load(ordering: .relaxed)
    guard position < written.load(ordering: .acquiring) else { return nil }
    let run = Self.unpack(slots.load(Int(position % UInt64(Self.capacity))))
    read.store(position + 1, ordering: .releasing)
    return run
  }

  // A validated request has a page index below 2^32, and at most 16 pages.
  private static func pack(_ run: PageRun) -> UInt64 {
    run.start.rawValue | run.count.rawValue << 32 | UInt64(run.region.rawValue) << 48
  }

  private static func unpack(_ word: UInt64) -> PageRun {
    PageRun(
      region: RegionIndex(rawValue: UInt16(truncatingIfNeeded: word >> 48)),
      start: PageIndex(rawValue: word & 0xFFFF_FFFF),
      count: PageCount(rawValue: word >> 32 & 0xFFFF))
  }
}
