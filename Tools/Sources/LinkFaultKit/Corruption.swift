internal import Simulation

/// Turns single bits over: the first byte at or behind an offset, or one in about so many bytes.
struct Corruption {
  private var nextOffset: UInt64
  private var meanDistance: UInt64?
  private var random: SeededRandom
  private(set) var isOver = false

  /// One bit of the byte at `offset`, or of the first one behind it.
  init(onceAt offset: UInt64, seed: UInt64) {
    nextOffset = offset
    random = SeededRandom(seed: seed)
  }

  /// One bit in about `meanDistance` bytes, from `offset` on.
  init(every meanDistance: UInt64, from offset: UInt64, seed: UInt64) {
    random = SeededRandom(seed: seed)
    self.meanDistance = meanDistance
    nextOffset = offset + random.next() % (2 * meanDistance)
  }

  /// Damages a piece of the stream whose first byte is the one at `start`.
  mutating func apply(to bytes: inout [UInt8], startingAt start: UInt64) {
    while !isOver, nextOffset < start + UInt64(bytes.count) {
      bytes[Int(max(nextOffset, start) - start)] ^= 1 << UInt8(random.next() % 8)
      if let meanDistance {
        nextOffset = max(nextOffset, start) + 1 + random.next() % (2 * meanDistance)
      } else {
        isOver = true
      }
    }
  }
}
