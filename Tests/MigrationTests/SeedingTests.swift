import Migration
import Pages
import Testing
import Wire

@Suite("Rounds of seeds before the freeze")
struct SeedingTests {
  @Test("READY begins the rounds, their end stops the VM, and the discards are told")
  func straightWay() {
    var rig = SourceRig.at(.preparing, mode: .hybrid)
    #expect(rig.feed(.received(.ready(epoch: base))) == [.beginSeeding])
    #expect(rig.core.state == .seeding && rig.core.times.freeze == nil)
    #expect(rig.feed(.seeded).deeds == [.pauseVM])
    #expect(rig.core.state == .pausing)
    let frozen = rig.feed(.vmm(.paused(discardPageCount: PageCount(7))))
    #expect(
      frozen == [.beginServing, .send(.frozen(epoch: base, discardPageCount: PageCount(7)))])
    rig.feed(.received(.discarded(epoch: base)))
    rig.feed(.vmm(.deviceStateSaved))
    rig.feed(.received(.prepared(epoch: base)))
    let handedOff = rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    #expect(handedOff.deeds == [.send(.go(epoch: handed)), .beginPush])
  }

  @Test("a mode without rounds never begins them", arguments: [MigrationMode.postCopy, .quick])
  func modesWithoutRounds(mode: MigrationMode) {
    var rig = SourceRig.at(.preparing, mode: mode)
    #expect(rig.feed(.received(.ready(epoch: base))).deeds == [.pauseVM])
  }

  @Test("a link that is lost in a round does not end the session: the rounds go on over the next")
  func lostLink() {
    var rig = SourceRig.at(.seeding)
    let effects = rig.feed(.linkDown(isFinal: false, lost))
    #expect(effects.deeds.isEmpty && effects.count == 1, "a limit is set")
    #expect(rig.core.state == .preparing)
    #expect(rig.feed(.seeded).isEmpty, "the switch waits for a link")
    #expect(rig.feed(.linkUp(.preparing)).deeds.isEmpty)
    #expect(rig.feed(.received(.ready(epoch: base))) == [.beginSeeding])
    #expect(rig.feed(.seeded).deeds == [.pauseVM])
  }

  @Test(
    "whatever ends the session in a round leaves a VM that runs and is not watched",
    arguments: [
      .operatorAbort, .operatorPark, .linkDown(isFinal: true, lost), .memoryLost(trouble),
      .seedingFailed(trouble), .received(.aborted(epoch: base, trouble)),
      .received(.parked(epoch: base, trouble)), .received(.discarded(epoch: base)),
    ] as [SourceEvent])
  func givenUp(event: SourceEvent) {
    var rig = SourceRig.at(.seeding)
    let effects = rig.feed(event)
    #expect(effects.contains(.endSeeding))
    #expect(!effects.contains(.pauseVM) && !effects.contains(.resumeVM))
    #expect([.awaitingAborted, .finished].contains(rig.core.state))
  }

  @Test("a destination that does not come back is given up, and the VM runs on unwatched")
  func neverBack() {
    var rig = SourceRig.at(.seeding)
    rig.feed(.linkDown(isFinal: false, lost))
    let effects = rig.feed(.timer(.giveUp))
    #expect(effects.contains(.endSeeding) && !effects.contains(.resumeVM))
    #expect(rig.core.state == .awaitingAborted)
    // Before the first round somebody else may still come.
    var early = SourceRig.at(.preparing, mode: .hybrid)
    #expect(early.feed(.linkDown(isFinal: false, lost)).isEmpty)
    var late = SourceRig.at(.seeding)
    late.feed(.linkDown(isFinal: false, lost))
    late.feed(.linkUp(.preparing))
    #expect(late.feed(.timer(.giveUp)).isEmpty, "it is back")
  }

  @Test("behind the freeze the VM is resumed, and no longer watched")
  func abandonedWhenFrozen() {
    var rig = SourceRig.at(.frozen, mode: .hybrid)
    let effects = rig.feed(.operatorAbort)
    #expect(effects.deeds.prefix(3) == [.endServing, .endSeeding, .resumeVM])
  }

  @Test("a restarted source lets the VM run and ends whatever an earlier life had begun")
  func recovered() throws {
    let opened = SourceRecord.opened(session: testSession, epoch: base, mode: .hybrid)
    var rig = try #require(SourceRig(recovering: [opened], vm: .running))
    #expect(rig.start() == [.listen, .endSeeding, .resumeVM])
  }
}

@Suite struct SwitchRuleTests {
  private static let mebibyte: UInt64 = 1 << 20
  private static let second: UInt64 = 1_000_000_000

  private func round(
    sent: UInt64, dirtied: UInt64, nanoseconds: UInt64 = second
  ) -> SeedRoundResult {
    SeedRoundResult(
      sentByteCount: sent * Self.mebibyte, nanoseconds: nanoseconds,
      dirtiedByteCount: dirtied * Self.mebibyte)
  }

  @Test func anIdleGuestFitsAfterTheFirstRound() {
    var rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(round(sent: 1024, dirtied: 0), elapsedNanoseconds: 1) == .fits)
  }

  @Test func whatFitsTheDowntimeTargetIsNotSentAgain() {
    // 100 MiB a second: 5 MiB in 50 ms.
    var rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(round(sent: 100, dirtied: 6), elapsedNanoseconds: 1) == nil)
    #expect(rule.roundEnded(round(sent: 100, dirtied: 5), elapsedNanoseconds: 1) == .fits)
  }

  @Test func aGuestThatOutrunsTheLinkEndsItAtOnce() {
    var rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(round(sent: 100, dirtied: 100), elapsedNanoseconds: 1) == .outrun)
    var other = SwitchRule(SwitchLimits())
    #expect(other.roundEnded(round(sent: 100, dirtied: 99), elapsedNanoseconds: 1) == nil)
  }

  @Test func oneRoundWithoutGainIsForgivenTwoInTurnAreNot() {
    var rule = SwitchRule(SwitchLimits())
    #expect(rule.roundEnded(round(sent: 100, dirtied: 40), elapsedNanoseconds: 1) == nil)
    #expect(rule.roundEnded(round(sent: 100, dirtied: 45), elapsedNanoseconds: 1) == nil)
    #expect(rule.roundEnded(round(sent: 100, dirtied: 39), elapsedNanoseconds: 1) == nil)
    #expect(rule.roundEnded(round(sent: 100, dirtied: 39), elapsedNanoseconds: 1) == nil)
    #expect(rule.roundEnded(round(sent: 100, dirtied: 60), elapsedNanoseconds: 1) == .stalled)
  }

  @Test func roundsAndTimeAreBounded() {
    var rule = SwitchRule(SwitchLimits(maximumRoundCount: 2))
    #expect(rule.roundEnded(round(sent: 100, dirtied: 40), elapsedNanoseconds: 1) == nil)
    #expect(rule.roundEnded(round(sent: 40, dirtied: 20), elapsedNanoseconds: 1) == .rounds)
    var timed = SwitchRule(SwitchLimits(maximumNanoseconds: 5 * Self.second))
    #expect(!timed.timeIsOver(5 * Self.second - 1) && timed.timeIsOver(5 * Self.second))
    #expect(
      timed.roundEnded(round(sent: 100, dirtied: 40), elapsedNanoseconds: 6 * Self.second) == .time)
  }

  @Test func aRoundThatTookNoTimeTellsNoRate() {
    var rule = SwitchRule(SwitchLimits())
    #expect(
      rule.roundEnded(round(sent: 0, dirtied: 1, nanoseconds: 0), elapsedNanoseconds: 1) == nil)
  }

  /// A guest with a working set that it writes over and over: the rounds shrink to it and end.
  @Test(arguments: [10, 50, 90, 100, 150, 200] as [Double])
  func everyGuestComesToAnEnd(percentOfLink: Double) {
    let bandwidth = 100.0 * Double(Self.mebibyte)
    let workingSet = 256.0 * Double(Self.mebibyte)
    var rule = SwitchRule(SwitchLimits())
    var remaining = 1024.0 * Double(Self.mebibyte)
    var reason: SwitchReason?
    while reason == nil {
      let seconds = remaining / bandwidth
      let dirtied = min(workingSet, seconds * bandwidth * percentOfLink / 100)
      reason = rule.roundEnded(
        SeedRoundResult(
          sentByteCount: UInt64(remaining), nanoseconds: UInt64(seconds * 1e9),
          dirtiedByteCount: UInt64(dirtied)), elapsedNanoseconds: 1)
      remaining = dirtied
    }
    #expect(rule.roundCount <= 30, "\(percentOfLink) %: \(reason?.rawValue ?? "")")
  }
}
