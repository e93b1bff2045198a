public import Pages

/// Measures the round trip of the urgent connection by pings, one at a time.
public struct RoundTripMeter: Sendable {
  /// Pings that one session sends: the shortest of a few is the link's, the others met a busy core.
  public static let pingCount: UInt64 = 8

  private var sequence: UInt64 = 0
  private var sent: Instant?

  /// The shortest round trip so far.
  public private(set) var shortestNanoseconds: UInt64?

  /// Nothing is measured yet.
  public init() {}

  /// The number of the next ping, to be sent now; nil when enough were, or one is under way.
  public mutating func nextPing(now: Instant) -> UInt64? {
    guard sent == nil, sequence < Self.pingCount else { return nil }
    sequence += 1
    sent = now
    return sequence
  }

  /// An answer came. One to another ping than the last is of no use.
  public mutating func pong(_ number: UInt64, now: Instant) {
    guard number == sequence, let start = sent else { return }
    sent = nil
    let nanoseconds = now.nanoseconds(since: start)
    shortestNanoseconds = min(shortestNanoseconds ?? nanoseconds, nanoseconds)
  }
}
