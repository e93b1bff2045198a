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
    #expect(rig.feed(.seeded(.outrun)).deeds == [.pauseVM])
    #expect(rig.core.state == .pausing)
    let frozen = rig.feed(.vmm(.paused(discardPageCount: PageCount(7))))
    #expect(
      frozen == [.beginServing, .send(.frozen(epoch: base, discardPageCount: PageCount(7)))])
    rig.feed(.received(.discarded(epoch: base)))
    rig.feed(.vmm(.deviceStateSaved))
    rig.feed(.received(.prepared(epoch: base)))
    let handedOff = rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    #expect(handedOff.deeds == [.send(.go(epoch: handed))])
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
    #expect(rig.feed(.seeded(.fits)).isEmpty, "the switch waits for a link")
    #expect(rig.feed(.linkUp(.preparing)).deeds.isEmpty)
    #expect(rig.feed(.received(.ready(epoch: base))) == [.beginSeeding])
    #expect(rig.feed(.seeded(.fits)).deeds == [.pauseVM])
  }

  @Test(
    "pre-copy that is switched over before what is left fits goes on as hybrid does",
    arguments: SwitchReason.allCases)
  func preCopyThatDoesNotFit(reason: SwitchReason) {
    var rig = SourceRig.at(.preparing, mode: .preCopy)
    rig.feed(.received(.ready(epoch: base)))
    rig.feed(.seeded(reason))
    let fits = reason == .fits
    let frozen = rig.feed(.vmm(.paused(discardPageCount: PageCount(7))))
    #expect(
      frozen.sent == [
        .frozen(epoch: base, discardPageCount: PageCount(7), fillsBeforeRun: fits)
      ])
    #expect(!rig.feed(.received(.discarded(epoch: base))).contains(.beginPush))
    #expect(rig.feed(.vmm(.deviceStateSaved)).contains(.beginPush) == fits)
    rig.feed(.received(.prepared(epoch: base)))
    rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    let ran = rig.feed(.received(.ran(epoch: handed, nanosecondsSinceStart: 9)))
    #expect(ran.contains(.beginPush) == !fits)
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

  @Test(
    "a VM that is left paused by a look is resumed, whatever ends the session",
    arguments: [SourceState.seeding, .preparing, .awaitingAborted])
  func leftPaused(state: SourceState) {
    var rig = SourceRig.at(.seeding)
    if state == .preparing { rig.feed(.linkDown(isFinal: false, lost)) }
    if state == .awaitingAborted { rig.feed(.operatorAbort) }
    #expect(rig.core.state == state)
    let effects = rig.feed(.seedingLeftPaused(trouble))
    #expect(effects.contains(.resumeVM) && rig.core.state == .resuming)
    #expect(effects.contains(.endSeeding) == (state != .awaitingAborted), "it is ended once")
    // What was armed in the state before.
    #expect(rig.feed(.timer(.linger)).isEmpty && rig.feed(.timer(.giveUp)).isEmpty)
    rig.feed(.vmm(.resumed))
    #expect([.awaitingAborted, .finished].contains(rig.core.state))
  }

  @Test("a VM that is left paused by a look and cannot be resumed is not said to run")
  func leftPausedForGood() {
    var rig = SourceRig.at(.seeding)
    rig.feed(.seedingLeftPaused(trouble))
    let effects = rig.feed(.vmm(.resumeFailed(trouble)))
    let outcome = effects.compactMap { effect -> Outcome? in
      if case .finish(let outcome) = effect { outcome } else { nil }
    }.first
    #expect(outcome?.ending == .parked && outcome?.source == .stopped)
    #expect(rig.feed(.seedingLeftPaused(trouble)).isEmpty)
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
