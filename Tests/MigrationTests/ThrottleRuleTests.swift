import Migration
import Testing

@Suite struct ThrottleRuleTests {
  private func round(_ sent: UInt64, leaving dirtied: UInt64) -> SeedRoundResult {
    SeedRoundResult(sentByteCount: sent, nanoseconds: 1, dirtiedByteCount: dirtied)
  }

  @Test func roundsThatConvergeTakeNothing() {
    var rule = ThrottleRule(maximumPercent: 99)
    var left: UInt64 = 1 << 30
    while left > 1 {
      #expect(rule.roundEnded(round(left, leaving: left / 2)) == 0)
      left /= 2
    }
  }

  /// The guest writes as much each time: a step for each two rounds, up to the most that is
  /// allowed.
  @Test func roundsThatLeaveAsMuchTakeStepAfterStep() {
    var rule = ThrottleRule(maximumPercent: 45)
    let taken = (0..<10).map { _ in rule.roundEnded(round(100, leaving: 100)) }
    #expect(taken == [0, 20, 20, 30, 30, 40, 40, 45, 45, 45])
  }

  @Test func oneSlowRoundIsADisturbance() {
    var rule = ThrottleRule(maximumPercent: 99)
    let left: [UInt64] = [60, 30, 20, 10, 8, 4, 3]
    #expect(left.map { rule.roundEnded(round(100, leaving: $0)) } == [0, 0, 0, 0, 0, 0, 0])
  }

  /// What is taken is not given back because a step has helped: the next round would be as before.
  @Test func whatHelpsStays() {
    var rule = ThrottleRule(maximumPercent: 99)
    for _ in 0..<2 { _ = rule.roundEnded(round(100, leaving: 100)) }
    #expect(rule.roundEnded(round(100, leaving: 40)) == 20)
    #expect(rule.roundEnded(round(40, leaving: 10)) == 20)
  }

  @Test func theFirstStepKeepsItsBound() {
    var rule = ThrottleRule(maximumPercent: 5)
    #expect((0..<3).map { _ in rule.roundEnded(round(1, leaving: 1)) } == [0, 5, 5])
  }
}
