/// Keeps a stream of bytes below a rate, with bursts: a token bucket. It knows no clock; who sends
/// asks how much may go at a moment, and says what went.
///
/// Kept as one moment instead of a level that is topped up: what was sent is paid for until then.
/// Nothing has to be done while nobody sends, and no rounding adds up.
public struct ByteRateLimit: Hashable, Sendable {
  /// The rate that is kept over any stretch much longer than a burst.
  public let bytesPerSecond: UInt64
  /// What may go at once after a pause.
  public let burstByteCount: UInt64
  private var paidUntil = Instant(nanoseconds: 0)

  /// Both must be at least 1; the first burst may go at once.
  public init(bytesPerSecond: UInt64, burstByteCount: UInt64) {
    invariant(bytesPerSecond > 0 && burstByteCount > 0, "a rate lets something through")
    self.bytesPerSecond = bytesPerSecond
    self.burstByteCount = burstByteCount
  }

  /// Bytes that may go now; 0 while a burst, or more than one, is not paid for yet.
  public func affordableByteCount(now: Instant) -> UInt64 {
    let debt = Self.scaled(
      paidUntil.nanoseconds(since: now), by: bytesPerSecond, dividedBy: 1_000_000_000, up: true)
    return burstByteCount - min(burstByteCount, debt)
  }

  /// Notes that bytes went. More than what was affordable is a debt: nothing is affordable until it
  /// is paid, so that a page larger than a burst can go at all.
  public mutating func spend(byteCount: UInt64, now: Instant) {
    let price = Self.scaled(byteCount, by: 1_000_000_000, dividedBy: bytesPerSecond, up: true)
    paidUntil = min(
      max(paidUntil, now).advanced(byNanoseconds: price), now.advanced(byNanoseconds: Self.most))
  }

  /// The first moment, `now` or later, at which `byteCount` are affordable; of more than a burst, a
  /// burst.
  public func momentAffordable(byteCount: UInt64, now: Instant) -> Instant {
    let spareByteCount = burstByteCount - min(byteCount, burstByteCount)
    let spare = Self.scaled(
      spareByteCount, by: 1_000_000_000, dividedBy: bytesPerSecond, up: false)
    let wait = paidUntil.nanoseconds(since: now)
    return now.advanced(byNanoseconds: wait - min(wait, spare))
  }

  /// 146 years, or as many bytes: sums of it with a moment cannot overflow.
  private static let most: UInt64 = 1 << 62

  /// value × factor ÷ divisor without overflow on the way, at most `most`. Prices and debts are
  /// rounded up, so that the rate is never exceeded; what is spared is rounded down.
  private static func scaled(
    _ value: UInt64, by factor: UInt64, dividedBy divisor: UInt64, up: Bool
  ) -> UInt64 {
    let product = value.multipliedFullWidth(by: factor)
    guard product.high < divisor else { return most }
    let (quotient, remainder) = divisor.dividingFullWidth(product)
    return min(most, quotient + (up && remainder > 0 && quotient < most ? 1 : 0))
  }
}
