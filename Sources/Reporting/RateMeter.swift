/// Turns a growing count, of bytes mostly, into a rate over the last moments.
public struct RateMeter: Sendable {
  /// How much a new measurement counts against those before: a line that can be read, and follows
  /// a change within a second at four samples a second.
  static let weight = 0.4

  private var last: (byteCount: UInt64, elapsedNanoseconds: UInt64)?
  private var average: Double = 0

  /// Nothing measured yet.
  public init() {}

  /// The rate after another measurement; both numbers only ever grow.
  public mutating func bytesPerSecond(
    byteCount: UInt64, elapsedNanoseconds: UInt64
  ) -> UInt64 {
    defer { last = (byteCount, elapsedNanoseconds) }
    guard let last, elapsedNanoseconds > last.elapsedNanoseconds, byteCount >= last.byteCount
    else { return UInt64(average) }
    let seconds = Double(elapsedNanoseconds - last.elapsedNanoseconds) / 1e9
    let rate = Double(byteCount - last.byteCount) / seconds
    average = average == 0 ? rate : average * (1 - Self.weight) + rate * Self.weight
    return UInt64(average)
  }
}
