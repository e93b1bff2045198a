import Migration
import Pages
import Testing
import Wire

@Suite("SourceCore: around and after the durable hand-off")
struct SourceHandOffTests {
  @Test("HANDED_OFF known not to be durable: the VM runs on")
  func notDurable() {
    var rig = SourceRig.at(.handingOff)
    let effects = rig.feed(
      .journal(.failed(.handedOff(epoch: handed), mayBeDurable: false, trouble)))
    #expect(effects.deeds == [.endServing, .resumeVM, .send(.abort(epoch: base, trouble))])
  }

  @Test("HANDED_OFF perhaps durable: neither GO nor resume; ABORTED is asked for")
  func perhapsDurable() {
    var rig = SourceRig.at(.handingOff)
    let effects = rig.feed(
      .journal(.failed(.handedOff(epoch: handed), mayBeDurable: true, trouble)))
    #expect(effects.deeds == [.send(.abort(epoch: base, trouble))])
    #expect(rig.core.state == .revoking)
    #expect(rig.feed(.linkDown(isFinal: false, lost)).deeds == [])
    #expect(rig.feed(.linkUp(.prepared)).sent == [.abort(epoch: base, trouble)])
    let proof = rig.feed(.received(.aborted(epoch: base, trouble)))
    #expect(proof.deeds == [.journal(.resumed(epoch: again))])
  }

  @Test("perhaps durable and the link gone for good: parked, not resumed")
  func perhapsDurableAndAlone() {
    var rig = SourceRig.at(.revoking)
    let effects = rig.feed(.linkDown(isFinal: true, lost))
    #expect(effects.outcome?.ending == .parked)
    #expect(effects.outcome?.reason == trouble, "the first cause is told")
    #expect(!effects.contains(.resumeVM))
  }

  @Test("a link lost while the record is written: GO goes out on the next one")
  func linkLostWhileHandingOff() {
    var rig = SourceRig.at(.handingOff)
    #expect(rig.feed(.linkDown(isFinal: false, lost)).deeds == [])
    #expect(rig.feed(.journal(.durable(.handedOff(epoch: handed)))).deeds == [])
    #expect(rig.feed(.linkUp(.prepared)).sent == [.go(epoch: handed)])
    let ran = rig.feed(.received(.ran(epoch: handed, nanosecondsSinceStart: 9)))
    #expect(ran.contains(.beginPush))
  }

  @Test(
    "what happens while the record is written decides what follows it",
    arguments: [
      (SourceEvent.linkDown(isFinal: true, lost), Ending.parked),
      (.memoryLost(trouble), .parked), (.operatorPark, .parked),
      (.received(.parked(epoch: base, trouble)), .parked),
    ])
  func parksBehindTheRecord(event: SourceEvent, ending: Ending) {
    var rig = SourceRig.at(.handingOff)
    #expect(rig.feed(event).deeds == [])
    let effects = rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    #expect(effects.outcome?.ending == ending)
    #expect(!effects.sent.contains(.go(epoch: handed)))

    var failing = SourceRig.at(.handingOff)
    failing.feed(event)
    let notDurable = failing.feed(
      .journal(.failed(.handedOff(epoch: handed), mayBeDurable: false, trouble)))
    #expect(notDurable.contains(.resumeVM), "the record is known not to be there")
    var unknown = SourceRig.at(.handingOff)
    unknown.feed(event)
    let unclear = unknown.feed(
      .journal(.failed(.handedOff(epoch: handed), mayBeDurable: true, trouble)))
    #expect(unclear.outcome?.ending == .parked)
  }

  @Test(
    "ABORTED, or a VM that resumed by itself, while the record is written: GO is never sent",
    arguments: [
      SourceEvent.received(.aborted(epoch: base, trouble)), .vmm(.resumedByItself),
    ])
  func undoneBehindTheRecord(event: SourceEvent) {
    for answer in [
      JournalAnswer.durable(SourceRecord.handedOff(epoch: handed)),
      .failed(.handedOff(epoch: handed), mayBeDurable: true, trouble),
    ] {
      var rig = SourceRig.at(.handingOff)
      #expect(rig.feed(event).deeds == [])
      rig.feed(.operatorPark)
      #expect(rig.feed(.journal(answer)).deeds == [.journal(.resumed(epoch: again))])
      let effects = rig.feed(.journal(.durable(.resumed(epoch: again))))
      #expect(effects.contains(.resumeVM))
    }
  }

  @Test(
    "a VM found running after GO is stopped for good, and nothing is served from it",
    arguments: [
      SourceState.handedOff, .serving, .completing,
    ])
  func resumedByItselfTooLate(state: SourceState) {
    var rig = SourceRig.at(state)
    let effects = rig.feed(.vmm(.resumedByItself))
    #expect(effects.prefix(2) == [.endServing, .disableVM])
    #expect(effects.outcome?.ending == .parked)
  }

  @Test(
    "the operator is refused once after the hand-off; the second stop parks",
    arguments: [
      SourceState.handedOff, .serving, .revoking,
    ])
  func stopIsRefusedOnce(state: SourceState) {
    var rig = SourceRig.at(state)
    let first = rig.feed(.operatorAbort)
    guard case .refuseStop? = first.first, first.count == 1 else {
      Issue.record("the first stop was not refused: \(first)")
      return
    }
    let second = rig.feed(.operatorAbort)
    #expect(second.outcome?.ending == .parked)
    guard case .parked(base, _)? = second.sent.first else {
      Issue.record("the destination was not told: \(second)")
      return
    }
  }

  @Test("memory is freed only behind a durable COMPLETED")
  func freeingWaits() {
    for state in SourceState.allCases where state != .finished {
      var rig = SourceRig.at(state)
      #expect(!rig.feed(.received(.complete(epoch: handed))).contains(.releaseMemory))
    }
    var rig = SourceRig.at(.completing)
    let failed = rig.feed(
      .journal(.failed(.completed(epoch: handed), mayBeDurable: false, trouble)))
    #expect(failed.outcome?.ending == .parked)
    #expect(!failed.contains(.releaseMemory))
  }

  @Test("a lost link does not stop the end from being written")
  func completesWithoutLink() {
    var rig = SourceRig.at(.completing)
    #expect(rig.feed(.linkDown(isFinal: true, lost)) == [])
    let effects = rig.feed(.journal(.durable(.completed(epoch: handed))))
    #expect(effects.deeds.first == .releaseMemory)
    #expect(effects.outcome?.ending == .completed)
  }

  @Test("the acknowledgement is repeated for as long as the source lingers")
  func acknowledgesAgain() {
    var rig = SourceRig.at(.lingering)
    let acknowledgement = [ControlMessage.completeAcknowledged(epoch: handed)]
    #expect(rig.feed(.received(.complete(epoch: handed))).sent == acknowledgement)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(.complete)).sent == acknowledgement)
    #expect(rig.feed(.timer(.linger)).outcome?.ending == .completed)
  }

  @Test("a VMM that cannot be disabled is a remark, not a failure")
  func disableFails() {
    var rig = SourceRig.at(.serving)
    #expect(rig.feed(.vmm(.disableFailed(trouble))) == [])
    rig.feed(.received(.complete(epoch: handed)))
    rig.feed(.journal(.durable(.completed(epoch: handed))))
    let outcome = rig.feed(.timer(.linger)).outcome
    #expect(outcome?.ending == .completed)
    #expect(outcome?.source == .stopped)
    #expect(outcome?.reason?.code == .vmm)
  }

  @Test("the deadline parks a handed-off source, and only while the link is down")
  func giveUp() {
    var limits = SourceLimits()
    limits.giveUpNanoseconds = 7
    var rig = SourceRig(limits: limits)
    _ = rig.start()
    rig.feed(.journal(.durable(.opened(session: testSession, epoch: base, mode: .postCopy))))
    rig.feed(.linkUp(.unknown))
    rig.feed(.received(.ready(epoch: base)))
    rig.feed(.vmm(.paused(discardPageCount: .zero)))
    rig.feed(.received(.discarded(epoch: base)))
    rig.feed(.vmm(.deviceStateSaved))
    rig.feed(.received(.prepared(epoch: base)))
    rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    #expect(rig.feed(.timer(.giveUp)) == [], "a stale timer with the link up")
    let down = rig.feed(.linkDown(isFinal: false, lost))
    #expect(down == [.setTimer(.giveUp, at: Instant(nanoseconds: rig.nanoseconds + 7))])
    #expect(rig.feed(.timer(.giveUp)).outcome?.ending == .parked)
  }
}

@Suite("SourceCore: recovery from its journal")
struct SourceRecoveryTests {
  static let opened = SourceRecord.opened(session: testSession, epoch: base, mode: .postCopy)

  @Test("nothing, or something else first, is no session")
  func noSession() {
    #expect(SourceRig(recovering: [], vm: .stopped) == nil)
    #expect(SourceRig(recovering: [.handedOff(epoch: handed)], vm: .stopped) == nil)
    #expect(SourceRig(recovering: [Self.opened, Self.opened], vm: .stopped) == nil)
  }

  @Test("before the hand-off the VM is let run, and the destination is told to give up")
  func beforeHandOff() throws {
    var rig = try #require(SourceRig(recovering: [Self.opened], vm: .stopped))
    #expect(rig.start() == [.listen, .resumeVM])
    #expect(!rig.core.isHandedOff)
    rig.feed(.vmm(.resumed))
    #expect(rig.core.state == .awaitingAborted)
    let told = rig.feed(.linkUp(.prepared)).sent
    guard case .abort(base, _)? = told.first else {
      Issue.record("no ABORT in \(told)")
      return
    }
    #expect(rig.feed(.received(.aborted(epoch: base, trouble))).outcome?.ending == .aborted)
  }

  @Test("a destination that has forgotten the session ends the wait for its ABORTED")
  func forgotten() {
    var rig = SourceRig.at(.awaitingAborted)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(.unknown)).outcome?.ending == .aborted)
  }

  @Test("behind RAN the VM is disabled again, and never resumed")
  func behindRan() throws {
    var rig = try #require(
      SourceRig(
        recovering: [
          Self.opened, .handedOff(epoch: handed), .ranAcknowledged(epoch: handed),
        ], vm: .stopped))
    #expect(rig.start() == [.listen, .beginServing, .beginPush, .disableVM])
    #expect(rig.core.state == .serving)
    #expect(rig.feed(.linkUp(.aborted)).disconnects)
  }

  @Test(
    "behind RESUMED or an operator's fence the VM runs",
    arguments: [
      SourceRecord.resumed(epoch: again), .fenced(epoch: again),
    ])
  func behindResumed(record: SourceRecord) throws {
    var rig = try #require(
      SourceRig(recovering: [Self.opened, .handedOff(epoch: handed), record], vm: .stopped))
    #expect(rig.start() == [.listen, .resumeVM])
    #expect(rig.feed(.vmm(.resumed)).outcome?.ending == .aborted)
  }

  @Test("behind COMPLETED the memory is released and the acknowledgement repeated")
  func behindCompleted() throws {
    var rig = try #require(
      SourceRig(
        recovering: [Self.opened, .handedOff(epoch: handed), .completed(epoch: handed)],
        vm: .gone))
    #expect(rig.start().deeds == [.listen, .releaseMemory])
    #expect(rig.feed(.linkUp(.complete)).sent == [.completeAcknowledged(epoch: handed)])
  }

  @Test("a VM that runs behind HANDED_OFF is stopped at once; GO is not sent")
  func foundRunning() throws {
    var rig = try #require(
      SourceRig(recovering: [Self.opened, .handedOff(epoch: handed)], vm: .running))
    let effects = rig.start()
    #expect(effects.prefix(2) == [.endServing, .disableVM])
    #expect(effects.outcome?.ending == .parked)
  }

  @Test("an ended session stays ended")
  func ended() throws {
    var rig = try #require(
      SourceRig(recovering: [Self.opened, .aborted(epoch: base)], vm: .running))
    #expect(rig.start().outcome?.ending == .aborted)
  }
}
