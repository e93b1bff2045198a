/// SplitMix64: the state grows by the golden ratio's 64 bits, the output is the state through two
/// multiply-and-shift rounds. Same seed, same sequence, on every machine and in every release.
public struct SeededRandom: Sendable {
  private var state: UInt64

  /// The sequence of that seed.
  public init(seed: UInt64) { state = seed }

  /// The next 64 bits.
  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }

  /// A number from `range`; the bias of the remainder does not matter here.
  public mutating func number(in range: Range<Int>) -> Int {
    range.lowerBound + Int(next() % UInt64(range.count))
  }

  /// A duration from `range`, in nanoseconds.
  public mutating func nanoseconds(in range: Range<UInt64>) -> UInt64 {
    range.lowerBound + next() % (range.upperBound - range.lowerBound)
  }

  /// True that many times in a thousand.
  public mutating func chance(perMille: Int) -> Bool {
    // Drawn even when it cannot be, so that a plan's numbers do not shift the sequence.
    Int(next() % 1000) < perMille
  }
}
