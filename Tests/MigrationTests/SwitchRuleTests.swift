import Migration
import Testing

@Suite struct SwitchRuleTests {
  private static let mebibyte: UInt64 = 1 << 20
  private static let second: UInt64 = 1_000_000_000
  private let on = RoundVerdict.goOn(obstacle: nil)

  private func round(
    sent: UInt64, dirtied: UInt64, nanoseconds: UInt64 = second
  ) -> SeedRoundResult {
    SeedRoundResult(
      sentByteCount: sent * Self.mebibyte, nanoseconds: nanoseconds,
      dirtiedByteCount: dirtied * Self.mebibyte)
  }

  /// Early enough for any limit.
  private func judge(
    _ rule: inout SwitchRule, sent: UInt64, dirtied: UInt64, nanoseconds: UInt64 = second
  ) -> RoundVerdict {
    rule.roundEnded(
      round(sent: sent, dirtied: dirtied, nanoseconds: nanoseconds), elapsedNanoseconds: 1)
  }

  @Test func anIdleGuestFitsAfterTheFirstRound() {
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 1024, dirtied: 0) == .switchOver(.fits))
  }

  @Test func whatFitsTheDowntimeTargetIsNotSentAgain() {
    // 100 MiB a second: 5 MiB in 50 ms.
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 6) == on)
    #expect(judge(&rule, sent: 100, dirtied: 5) == .switchOver(.fits))
  }

  @Test func aGuestThatOutrunsTheLinkEndsItAtOnce() {
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 100) == .switchOver(.outrun))
    var other = SwitchRule(SwitchLimits())
    #expect(judge(&other, sent: 100, dirtied: 99) == on)
  }

  @Test func oneRoundWithoutGainIsForgivenTwoInTurnAreNot() {
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 40) == on)
    #expect(judge(&rule, sent: 100, dirtied: 45) == on)
    #expect(judge(&rule, sent: 100, dirtied: 39) == on)
    #expect(judge(&rule, sent: 100, dirtied: 39) == on)
    #expect(judge(&rule, sent: 100, dirtied: 60) == .switchOver(.stalled))
  }

  @Test func roundsAndTimeAreBounded() {
    var rule = SwitchRule(SwitchLimits(maximumRoundCount: 2))
    #expect(judge(&rule, sent: 100, dirtied: 40) == on)
    #expect(judge(&rule, sent: 40, dirtied: 20) == .switchOver(.rounds))
    var timed = SwitchRule(SwitchLimits(maximumNanoseconds: 5 * Self.second))
    #expect(!timed.timeIsOver(5 * Self.second - 1) && timed.timeIsOver(5 * Self.second))
    #expect(
      timed.roundEnded(round(sent: 100, dirtied: 40), elapsedNanoseconds: 6 * Self.second)
        == .switchOver(.time))
  }

  @Test func aRoundThatTookNoTimeTellsNoRate() {
    var rule = SwitchRule(SwitchLimits())
    #expect(
      judge(&rule, sent: 0, dirtied: 1, nanoseconds: 0) == on)
  }

  /// A guest with a working set that it writes over and over: the rounds shrink to it and end.
  @Test(arguments: [10, 50, 90, 100, 150, 200] as [Double])
  func everyGuestComesToAnEnd(percentOfLink: Double) {
    let bandwidth = 100.0 * Double(Self.mebibyte)
    let workingSet = 256.0 * Double(Self.mebibyte)
    var rule = SwitchRule(SwitchLimits())
    var remaining = 1024.0 * Double(Self.mebibyte)
    var verdict = on
    while verdict == on {
      let seconds = remaining / bandwidth
      let dirtied = min(workingSet, seconds * bandwidth * percentOfLink / 100)
      verdict = rule.roundEnded(
        SeedRoundResult(
          sentByteCount: UInt64(remaining), nanoseconds: UInt64(seconds * 1e9),
          dirtiedByteCount: UInt64(dirtied)), elapsedNanoseconds: 1)
      remaining = dirtied
    }
    #expect(rule.roundCount <= 30, "\(percentOfLink) %: \(verdict)")
  }

  // MARK: Pre-copy

  private func preCopy(
    _ action: LimitAction = .stay, rounds: UInt64? = nil, nanoseconds: UInt64? = nil
  ) -> SwitchRule {
    SwitchRule(
      SwitchLimits(
        maximumRoundCount: rounds, maximumNanoseconds: nanoseconds, atLimit: action))
  }

  @Test func preCopyGoesOnWhereHybridSwitchesAndSaysWhy() {
    var rule = preCopy()
    #expect(
      judge(&rule, sent: 100, dirtied: 100)
        == .goOn(obstacle: .outrun))
    #expect(judge(&rule, sent: 100, dirtied: 110) == on)
    for _ in 0..<100 {
      #expect(
        judge(&rule, sent: 110, dirtied: 110)
          == .goOn(obstacle: .stalled))
    }
    // The guest has calmed down.
    #expect(
      judge(&rule, sent: 110, dirtied: 1) == .switchOver(.fits))
  }

  /// 100 MiB a second, and a round of 5 KiB that took a round trip of 60 ms.
  @Test func aShortRoundDoesNotHideWhatTheLinkCarries() {
    var rule = preCopy()
    #expect(judge(&rule, sent: 100, dirtied: 10) == on)
    let short = SeedRoundResult(
      sentByteCount: 5120, nanoseconds: 60_000_000, dirtiedByteCount: 5120)
    #expect(rule.roundEnded(short, elapsedNanoseconds: 1) == .switchOver(.fits))
    // A longer one counts, also when it says that the link has become slow.
    var slow = preCopy()
    #expect(judge(&slow, sent: 100, dirtied: 10) == on)
    #expect(judge(&slow, sent: 1, dirtied: 1) == on)
  }

  @Test(arguments: LimitAction.allCases)
  func aLimitOfPreCopyIsWhatWasAskedFor(action: LimitAction) {
    func verdict(_ reason: SwitchReason) -> RoundVerdict {
      action == .stay ? .stay(reason) : .switchOver(reason)
    }
    var counted = preCopy(action, rounds: 2)
    #expect(judge(&counted, sent: 100, dirtied: 90) == on)
    #expect(
      judge(&counted, sent: 90, dirtied: 80) == verdict(.rounds))
    var timed = preCopy(action, nanoseconds: Self.second)
    #expect(
      timed.roundEnded(round(sent: 100, dirtied: 90), elapsedNanoseconds: Self.second)
        == verdict(.time))
    #expect(timed.roundStopped(round(sent: 100, dirtied: 90), by: .time) == verdict(.time))
    #expect(timed.roundStopped(round(sent: 100, dirtied: 1), by: .time) == .switchOver(.fits))
    // What fits is switched over, however late.
    #expect(
      timed.roundEnded(round(sent: 100, dirtied: 0), elapsedNanoseconds: 2 * Self.second)
        == .switchOver(.fits))
  }
}
