/// How long a migration still takes, by how fast its pages were done lately. Pure.
public struct TimeLeft: Sendable {
  /// Whatever takes longer is not foretold by what happened a moment ago.
  private static let longestNanoseconds = 30.0 * 86_400 * 1e9

  private var rate = RateMeter()

  /// Nothing measured yet.
  public init() {}

  /// Nanoseconds until all pages are done, after another measurement; nil while that cannot be
  /// told. The numbers only ever grow.
  public mutating func nanoseconds(
    donePageCount: UInt64, totalPageCount: UInt64, elapsedNanoseconds: UInt64
  ) -> UInt64? {
    let perSecond = rate.bytesPerSecond(
      byteCount: donePageCount, elapsedNanoseconds: elapsedNanoseconds)
    guard donePageCount < totalPageCount else { return 0 }
    guard perSecond > 0 else { return nil }
    let left = Double(totalPageCount - donePageCount) / Double(perSecond) * 1e9
    return left < Self.longestNanoseconds ? UInt64(left) : nil
  }
}
