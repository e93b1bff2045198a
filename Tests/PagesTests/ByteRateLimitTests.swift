import Pages
import Testing

@Suite("A byte rate limit")
struct ByteRateLimitTests {
  private func instant(_ milliseconds: UInt64) -> Instant {
    Instant(nanoseconds: 1_000_000_000_000 + milliseconds * 1_000_000)
  }

  @Test("lets one burst go at once, and then nothing")
  func burst() {
    var limit = ByteRateLimit(bytesPerSecond: 1_000_000, burstByteCount: 64_000)
    #expect(limit.affordableByteCount(now: instant(0)) == 64_000)
    limit.spend(byteCount: 64_000, now: instant(0))
    #expect(limit.affordableByteCount(now: instant(0)) == 0)
    #expect(limit.affordableByteCount(now: instant(10)) == 10_000)
    #expect(limit.affordableByteCount(now: instant(64)) == 64_000)
    // A pause saves up no more than a burst.
    #expect(limit.affordableByteCount(now: instant(5000)) == 64_000)
  }

  @Test("says when so many bytes may go")
  func moment() {
    var limit = ByteRateLimit(bytesPerSecond: 1_000_000, burstByteCount: 64_000)
    #expect(limit.momentAffordable(byteCount: 64_000, now: instant(0)) == instant(0))
    limit.spend(byteCount: 64_000, now: instant(0))
    #expect(limit.momentAffordable(byteCount: 4000, now: instant(0)) == instant(4))
    #expect(limit.momentAffordable(byteCount: 64_000, now: instant(0)) == instant(64))
    // More than a burst never is affordable at once: the moment of a burst.
    #expect(limit.momentAffordable(byteCount: 1 << 40, now: instant(0)) == instant(64))
    #expect(limit.momentAffordable(byteCount: 4000, now: instant(7)) == instant(7))
  }

  @Test("has a debt paid before anything more goes")
  func debt() {
    var limit = ByteRateLimit(bytesPerSecond: 1_000_000, burstByteCount: 1000)
    limit.spend(byteCount: 2_000_000, now: instant(0))
    #expect(limit.affordableByteCount(now: instant(1998)) == 0)
    #expect(limit.affordableByteCount(now: instant(2000)) == 1000)
    #expect(limit.momentAffordable(byteCount: 1, now: instant(0)) > instant(1998))
  }

  @Test(
    "is never exceeded over a long stretch, whatever is sent at a time",
    arguments: [UInt64(4096), 65_536, 2_097_152], [UInt64(3), 4000, 10_000_000, 1 << 40])
  func rate(pieceByteCount: UInt64, bytesPerSecond: UInt64) {
    var limit = ByteRateLimit(bytesPerSecond: bytesPerSecond, burstByteCount: 65_536)
    var now = instant(0)
    var sent: UInt64 = 0
    for _ in 0..<1000 {
      now = limit.momentAffordable(byteCount: pieceByteCount, now: now)
      #expect(limit.affordableByteCount(now: now) > 0)
      limit.spend(byteCount: pieceByteCount, now: now)
      sent += pieceByteCount
    }
    let seconds = Double(now.nanoseconds(since: instant(0))) / 1e9
    let most = Double(bytesPerSecond) * seconds + Double(65_536 + pieceByteCount)
    #expect(Double(sent) <= most * 1.000_001)
    // It is no brake beyond the rate either.
    #expect(seconds <= Double(sent) / Double(bytesPerSecond) + 0.001)
  }

  @Test("survives numbers at the edge")
  func edges() {
    var limit = ByteRateLimit(bytesPerSecond: 1, burstByteCount: 1)
    limit.spend(byteCount: .max, now: instant(0))
    #expect(limit.affordableByteCount(now: instant(0)) == 0)
    var fast = ByteRateLimit(bytesPerSecond: .max, burstByteCount: .max)
    fast.spend(byteCount: 1 << 62, now: instant(0))
    #expect(fast.affordableByteCount(now: instant(1000)) == .max)
  }
}
