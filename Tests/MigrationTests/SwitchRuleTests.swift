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
    // 100 MiB a second: 4 MiB in 40 ms, and 10 ms for the pause itself.
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 5) == on)
    #expect(judge(&rule, sent: 100, dirtied: 4) == .switchOver(.fits))
    #expect(rule.predictedNanoseconds(for: 4 * Self.mebibyte) == 50_000_000)
  }

  /// A last look of 6 ms and one and a half round trips of 4 ms are a part of the downtime, and
  /// what the guest writes in one of these is sent in it: 0.4 MiB at 100 MiB a second.
  @Test func thePauseItselfCountsAsDowntime() {
    var result = round(sent: 100, dirtied: 2)
    result.lookNanoseconds = 6_000_000
    result.roundTripNanoseconds = 4_000_000
    result.writtenByteCount = 100 * Self.mebibyte
    var rule = preCopy()
    #expect(rule.predictedNanoseconds(for: 0) == SwitchRule.handOverNanoseconds)
    #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == .switchOver(.fits))
    #expect(rule.predictedNanoseconds(for: 2 * Self.mebibyte) == 46_000_000)
    #expect(rule.predictedNanoseconds(for: 0) == 26_000_000)
    result.dirtiedByteCount = 3 * Self.mebibyte
    #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == .goOn(obstacle: nil))
  }

  /// Over a link of 100 ms no pause is as short as 50, and a content log looks for a second: what
  /// is left may take half of the target then, or such a VM would never be moved.
  @Test func aPauseThatIsTooLongByItselfLeavesHalfOfTheTarget() {
    for pause: UInt64 in [100_000_000, Self.second, .max] {
      var result = round(sent: 100, dirtied: 3)
      result.lookNanoseconds = pause
      var rule = preCopy()
      #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == on)
      result.dirtiedByteCount = Self.mebibyte * 5 / 2
      #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == .switchOver(.fits))
    }
    // So may it where most of that is what the guest writes in a round trip.
    var result = round(sent: 100, dirtied: 2)
    result.writtenByteCount = 50 * Self.mebibyte
    for roundTrip: UInt64 in [100_000_000, .max - 10_000_000, .max] {
      result.roundTripNanoseconds = roundTrip
      var rule = preCopy()
      #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == .switchOver(.fits))
      #expect(rule.predictedNanoseconds(for: 1).map { $0 > 200_000_000 } == true)
    }
  }

  /// A round that has mostly found what need not be sent says little of the link: 6 MiB in a
  /// second, and what is left would be sent at a hundred.
  @Test func whatNeedNotBeSentMakesNoLinkSlow() {
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 50) == on)
    var saving = round(sent: 6, dirtied: 4)
    saving.savedByteCount = 44 * Self.mebibyte
    var other = rule
    #expect(rule.roundEnded(saving, elapsedNanoseconds: 1) == .switchOver(.fits))
    #expect(judge(&other, sent: 6, dirtied: 4) == on)
  }

  @Test func aGuestThatOutrunsTheLinkEndsItAtOnce() {
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 100) == .switchOver(.outrun))
    var other = SwitchRule(SwitchLimits())
    #expect(judge(&other, sent: 100, dirtied: 50) == on)
  }

  /// Of a guest that writes all of its memory in a second the whole of a long round tells less than
  /// half of its rate, since what is written twice counts once; the last part of it tells enough.
  @Test func theLastPartOfALongRoundTellsTheRate() {
    var result = round(sent: 100, dirtied: 30)
    result.writtenByteCount = 12 * Self.mebibyte
    result.writtenNanoseconds = Self.second / 5
    #expect(result.nextRoundNanoseconds == Self.second * 3 / 10)
    #expect(result.dirtyRate == Double(60 * Self.mebibyte))
    var rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == .switchOver(.slowGain))
    result.writtenByteCount = 20 * Self.mebibyte
    rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == .switchOver(.outrun))
    result.writtenByteCount = 9 * Self.mebibyte
    rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(result, elapsedNanoseconds: 1) == on)
  }

  /// What is written at random over all of memory is never more than memory, however fast: the
  /// rounds would shrink a little each time, and send all of it again and again.
  @Test func roundsThatLeaveMostOfWhatTheySendAreNotWorthIt() {
    var first = SwitchRule(SwitchLimits())
    #expect(judge(&first, sent: 100, dirtied: 51) == .switchOver(.slowGain))
    var later = SwitchRule(SwitchLimits())
    #expect(judge(&later, sent: 100, dirtied: 50) == on)
    #expect(judge(&later, sent: 50, dirtied: 30) == on)
    #expect(judge(&later, sent: 30, dirtied: 20) == .switchOver(.slowGain))
    // In pre-copy there is nothing else: it goes on, and fits in the end.
    var preCopy = SwitchRule(SwitchLimits(atLimit: .stay))
    for (sent, dirtied) in [(100, 80), (80, 60), (60, 40)] as [(UInt64, UInt64)] {
      #expect(judge(&preCopy, sent: sent, dirtied: dirtied) == on)
    }
  }

  /// What a lost round has not brought is no fault of the guest's: the round behind it had more to
  /// send than the one before had left, and is judged by that. So is a limit that was changed.
  @Test func aLostRoundAndAChangedLimitAreNotHeldAgainstTheGuest() {
    var lost = SwitchRule(SwitchLimits())
    #expect(judge(&lost, sent: 100, dirtied: 40) == on)
    #expect(judge(&lost, sent: 40, dirtied: 30) == on)
    lost.roundLost(remaining: 60 * Self.mebibyte)
    #expect(judge(&lost, sent: 60, dirtied: 29) == on)
    var changed = SwitchRule(SwitchLimits())
    changed.bandwidthChanged()
    #expect(judge(&changed, sent: 100, dirtied: 80) == on)
    #expect(judge(&changed, sent: 80, dirtied: 50) == on)
  }

  /// Whatever the guest does, what hybrid sends is bounded: each round at most half of the one
  /// before, two times not, and then the rest.
  @Test func whatHybridSendsIsBounded() {
    for share in stride(from: 0.01, to: 1.0, by: 0.01) {
      var rule = SwitchRule(SwitchLimits())
      var remaining: UInt64 = 1 << 20
      var sent: UInt64 = 0
      while true {
        let dirtied = UInt64(Double(remaining) * share)
        sent += remaining
        let verdict = judge(&rule, sent: remaining, dirtied: dirtied)
        remaining = dirtied
        guard case .goOn = verdict else { break }
      }
      #expect(Double(sent + remaining) <= 2.5 * Double(1 << 20), "\(share)")
    }
  }

  @Test func oneRoundWithoutGainIsForgivenTwoInTurnAreNot() {
    var rule = SwitchRule(SwitchLimits())
    #expect(judge(&rule, sent: 100, dirtied: 40) == on)
    #expect(judge(&rule, sent: 100, dirtied: 45) == on)
    #expect(judge(&rule, sent: 100, dirtied: 20) == on)
    #expect(judge(&rule, sent: 100, dirtied: 21) == on)
    #expect(judge(&rule, sent: 100, dirtied: 30) == .switchOver(.stalled))
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

  /// 100 MiB a second in a second; then 1 MiB in 60 ms, which is 17.
  @Test(
    arguments: [
      // Less than eight round trips.
      (nanoseconds: 60_000_000, roundTrip: 8_000_000, isTelling: false),
      (nanoseconds: 60_000_000, roundTrip: 7_500_000, isTelling: true),
      // A host's scheduling, whatever the round trip.
      (nanoseconds: 9_000_000, roundTrip: 50_000, isTelling: false),
      (nanoseconds: 60_000_000, roundTrip: nil, isTelling: false),
    ] as [(UInt64, UInt64?, Bool)])
  func aRoundTellsTheRateWhenItIsMoreThanRoundTrips(
    nanoseconds: UInt64, roundTrip: UInt64?, isTelling: Bool
  ) {
    var rule = preCopy()
    #expect(judge(&rule, sent: 100, dirtied: 10) == on)
    // 2 MiB would take 20 ms as the first round went, and far more as this one did.
    let slow = SeedRoundResult(
      sentByteCount: Self.mebibyte * nanoseconds / 60_000_000, nanoseconds: nanoseconds,
      dirtiedByteCount: 2 * Self.mebibyte, roundTripNanoseconds: roundTrip)
    let verdict = rule.roundEnded(slow, elapsedNanoseconds: 1)
    #expect(verdict == (isTelling ? on : .switchOver(.fits)))
  }

  /// Its end waits for what was under way: it tells how fast the link is at least.
  @Test func aRoundThatWasStoppedMakesNoLinkSlow() {
    var rule = preCopy(nanoseconds: Self.second)
    #expect(judge(&rule, sent: 100, dirtied: 10) == on)
    #expect(rule.roundStopped(round(sent: 1, dirtied: 4), by: .time) == .switchOver(.fits))
    #expect(rule.roundStopped(round(sent: 1, dirtied: 5), by: .time) == .stay(.time))
  }

  @Test func anotherLimitOfTheBandwidthForgetsWhatTheLinkCarried() {
    var rule = preCopy(nanoseconds: Self.second)
    #expect(judge(&rule, sent: 100, dirtied: 10) == on)
    rule.bandwidthChanged()
    let empty = round(sent: 0, dirtied: 1)
    #expect(rule.roundStopped(empty, by: .time) == .stay(.time))
  }

  /// A part of the round went at a gigabyte a second, before the limit was lowered to ten million.
  @Test func aRoundInWhichTheLimitWasChangedTellsNothing() {
    var rule = SwitchRule(SwitchLimits())
    rule.bandwidthChanged()
    #expect(judge(&rule, sent: 1000, dirtied: 20) == on)
    #expect(judge(&rule, sent: 20, dirtied: 20, nanoseconds: 2 * Self.second) == on)
    var outrun = SwitchRule(SwitchLimits())
    outrun.bandwidthChanged()
    #expect(judge(&outrun, sent: 10, dirtied: 20) == on)
  }

  @Test func anotherLinkIsMeasuredAnew() {
    var rule = preCopy(nanoseconds: Self.second)
    #expect(judge(&rule, sent: 100, dirtied: 10) == on)
    rule.linkChanged()
    #expect(judge(&rule, sent: 10, dirtied: 1) == on)
    #expect(judge(&rule, sent: 100, dirtied: 1) == .switchOver(.fits))
  }

  @Test func theFirstWholeRoundIsTheFirstHoweverManyWereLost() {
    var rule = SwitchRule(SwitchLimits())
    for _ in 0..<3 { rule.roundLost(remaining: 100) }
    #expect(judge(&rule, sent: 100, dirtied: 100) == .switchOver(.outrun))
  }

  @Test func lostRoundsThatLeaveNoLessAreCounted() {
    var rule = SwitchRule(SwitchLimits(maximumRoundCount: 2))
    for remaining: UInt64 in [100, 90, 80] {
      rule.roundLost(remaining: remaining)
      #expect(!rule.roundsAreOver)
    }
    rule.roundLost(remaining: 80)
    #expect(!rule.roundsAreOver)
    rule.roundLost(remaining: 95)
    #expect(rule.roundsAreOver)
    var unlimited = preCopy()
    for _ in 0..<1000 { unlimited.roundLost(remaining: 1) }
    #expect(!unlimited.roundsAreOver)
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
