internal import Pages

/// When each page that is waited for was asked for: a fixed open-addressing table, so that the
/// fault path never allocates. A demand that finds no room is served all the same, only not timed.
struct DemandTable {
  /// A power of two above the faults that a VM of hundreds of vCPUs can have open.
  private static let capacity = 4096
  /// Kept half empty, so that probes stay short.
  private static let maximumCount = capacity / 2

  private struct Entry {
    var flatIndex = -1
    var asked = Instant(nanoseconds: 0)
  }

  private var entries = [Entry](repeating: Entry(), count: capacity)
  private(set) var count = 0

  private static func home(_ flatIndex: Int) -> Int {
    // Fibonacci hashing: neighbouring pages land far apart.
    Int(truncatingIfNeeded: (UInt64(flatIndex) &* 0x9E37_79B9_7F4A_7C15) >> 52)
  }

  /// Notes when the page was asked for first; false when there is no room.
  @discardableResult
  mutating func insert(_ flatIndex: Int, at instant: Instant) -> Bool {
    guard count < Self.maximumCount else { return false }
    var position = Self.home(flatIndex)
    while entries[position].flatIndex >= 0 {
      if entries[position].flatIndex == flatIndex { return true }
      position = (position + 1) & (Self.capacity - 1)
    }
    entries[position] = Entry(flatIndex: flatIndex, asked: instant)
    count += 1
    return true
  }

  /// When the page was asked for, and forgets it.
  mutating func remove(_ flatIndex: Int) -> Instant? {
    var position = Self.home(flatIndex)
    while entries[position].flatIndex != flatIndex {
      if entries[position].flatIndex < 0 { return nil }
      position = (position + 1) & (Self.capacity - 1)
    }
    let asked = entries[position].asked
    count -= 1
    // Move back what the hole would hide from its home.
    var hole = position
    var next = (hole + 1) & (Self.capacity - 1)
    while entries[next].flatIndex >= 0 {
      let home = Self.home(entries[next].flatIndex)
      let distanceFromHome = (next - home) & (Self.capacity - 1)
      if distanceFromHome >= (next - hole) & (Self.capacity - 1) {
        entries[hole] = entries[next]
        hole = next
      }
      next = (next + 1) & (Self.capacity - 1)
    }
    entries[hole] = Entry()
    return asked
  }
}
