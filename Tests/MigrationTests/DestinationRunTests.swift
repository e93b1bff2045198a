import Migration
import Pages
import Testing
import Wire

private let opened = DestinationRecord.opened(session: testSession, epoch: base, mode: .postCopy)
private let prepared = DestinationRecord.prepared(epoch: base)
private let goAccepted = DestinationRecord.goAccepted(epoch: handed)
private let ran = DestinationRecord.ran(epoch: handed)

@Suite("DestinationCore: from GO on")
struct DestinationRunTests {
  @Test("a VMM that refused and is shown not running: ruled out, killed, proven, in that order")
  func refusedToRun() {
    var rig = DestinationRig.at(.starting)
    let refused = rig.feed(.vmm(.runRefused(isShownNotRunning: true, trouble)))
    #expect(refused.deeds == [.journal(.runRuledOut(epoch: handed))])
    #expect(
      rig.feed(.journal(.durable(.runRuledOut(epoch: handed)))) == [.killVM])
    #expect(rig.feed(.vmm(.killed)) == [.journal(.aborted(epoch: base, trouble))])
    #expect(
      rig.feed(.journal(.durable(.aborted(epoch: base, trouble)))).sent == [
        .aborted(epoch: base, trouble)
      ])
  }

  @Test("a VMM that refused without showing that nothing ran is never aborted")
  func refusedUnclearly() {
    var rig = DestinationRig.at(.starting)
    let effects = rig.feed(.vmm(.runRefused(isShownNotRunning: false, trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(effects.outcome?.destination == .mayRun)
    #expect(!effects.contains(.killVM))
  }

  @Test(
    "a VMM that dies once it was told to run is lost, and that is said",
    arguments: [
      DestinationState.starting, .recordingRan, .running, .completing,
    ])
  func diedAfterRun(state: DestinationState) {
    var rig = DestinationRig.at(state)
    let effects = rig.feed(.vmm(.died(trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(effects.outcome?.destination == .killed)
    #expect(effects.outcome?.reason?.reason.contains("cannot be brought back") == true)
  }

  @Test(
    "trouble while GO_ACCEPTED is written: the VMM was not told to run, so it is undone",
    arguments: [DestinationEvent.vmm(.died(trouble)), .memoryFailed(trouble)])
  func troubleWhileAccepting(event: DestinationEvent) {
    var rig = DestinationRig.at(.acceptingGo)
    #expect(rig.feed(event) == [])
    #expect(
      rig.feed(.journal(.durable(goAccepted))).deeds == [
        .journal(.runRuledOut(epoch: handed))
      ])
    var failing = DestinationRig.at(.acceptingGo)
    failing.feed(event)
    #expect(
      failing.feed(.journal(.failed(goAccepted, mayBeDurable: true, trouble))).deeds == [
        .journal(.runRuledOut(epoch: handed))
      ])
  }

  @Test("GO_ACCEPTED that cannot be written parks: nothing ran, nothing is lost")
  func acceptFails() {
    var rig = DestinationRig.at(.acceptingGo)
    let effects = rig.feed(.journal(.failed(goAccepted, mayBeDurable: true, trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(effects.outcome?.destination == .stopped)
    #expect(!effects.contains(.runVM) && !effects.contains(.killVM))
  }

  @Test("RAN that cannot be written does not stop a running VM")
  func ranFails() {
    var rig = DestinationRig.at(.recordingRan)
    let effects = rig.feed(.journal(.failed(ran, mayBeDurable: false, trouble)))
    #expect(rig.core.state == .running)
    #expect(effects.outcome == nil && effects.sent.count == 1)
  }

  @Test("COMPLETE that cannot be written is not said", arguments: [true, false])
  func completeFails(mayBeDurable: Bool) {
    var rig = DestinationRig.at(.completing)
    let effects = rig.feed(
      .journal(.failed(.complete(epoch: handed), mayBeDurable: mayBeDurable, trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.sent.contains(.complete(epoch: handed)))
    #expect(!effects.contains(.unregister))
  }

  @Test("ABORTED or its verdict that cannot be written parks without saying it")
  func abortedFails() {
    var rig = DestinationRig.at(.recordingAborted)
    let effects = rig.feed(
      .journal(.failed(.aborted(epoch: base, stopRequest), mayBeDurable: true, trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.sent.contains(.aborted(epoch: base, stopRequest)))
    var ruling = DestinationRig.at(.starting)
    ruling.feed(.vmm(.runRefused(isShownNotRunning: true, trouble)))
    let kept = ruling.feed(
      .journal(.failed(.runRuledOut(epoch: handed), mayBeDurable: true, trouble)))
    #expect(kept.outcome?.ending == .parked)
    #expect(!kept.contains(.killVM))
  }

  @Test("a VMM that does not die proves nothing")
  func killFails() {
    var rig = DestinationRig.at(.killing)
    let effects = rig.feed(.vmm(.killFailed(trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(effects.sent.allSatisfy { if case .aborted = $0 { false } else { true } })
  }

  @Test("the link's final loss while accepting GO still lets the VM run, then parks")
  func finalLossWhileAccepting() {
    var rig = DestinationRig.at(.acceptingGo)
    #expect(rig.feed(.linkDown(isFinal: true, lost)) == [])
    #expect(rig.feed(.journal(.durable(goAccepted))) == [.runVM])
    rig.feed(.vmm(.running(since: Instant(nanoseconds: 1))))
    let effects = rig.feed(.journal(.durable(ran)))
    #expect(effects.outcome?.ending == .parked)
    #expect(effects.outcome?.destination == .runs)
  }

  @Test("with every page here the VM completes without the source, and that is said")
  func completesAlone() {
    var rig = DestinationRig.at(.recordingRan, mode: .quick)
    rig.feed(.linkDown(isFinal: true, lost))
    rig.feed(.journal(.durable(ran)))
    let effects = rig.feed(.journal(.durable(.complete(epoch: handed))))
    #expect(effects.contains(.unregister))
    #expect(effects.outcome?.ending == .completed)
    #expect(effects.outcome?.reason?.code == .timeout)
  }

  @Test("memory that runs out after GO parks and never fills with zeros")
  func memoryFails() {
    var rig = DestinationRig.at(.running)
    let effects = rig.feed(.memoryFailed(trouble))
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.contains(.unregister))
  }

  @Test("the operator is refused once after GO; the second stop parks")
  func stopIsRefusedOnce() {
    var rig = DestinationRig.at(.running)
    guard case .refuseStop? = rig.feed(.operatorAbort).first else {
      Issue.record("the first stop was not refused")
      return
    }
    #expect(rig.feed(.operatorAbort).outcome?.ending == .parked)
    var accepting = DestinationRig.at(.acceptingGo)
    accepting.feed(.operatorPark)
    let parked = accepting.feed(.journal(.durable(goAccepted)))
    #expect(parked.outcome?.ending == .parked)
    #expect(!parked.contains(.runVM))
  }

  @Test(
    "a source that parks takes the destination with it, prepared or running",
    arguments: [
      DestinationState.prepared, .running,
    ])
  func peerParks(state: DestinationState) {
    var rig = DestinationRig.at(state)
    let effects = rig.feed(.received(.parked(epoch: base, trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.contains(.killVM))
  }

  @Test("ABORTED is said again on every link and to every GO")
  func abortedIsSaidAgain() {
    var rig = DestinationRig.at(.aborted)
    let proof = [ControlMessage.aborted(epoch: base, stopRequest)]
    #expect(rig.feed(.received(.go(epoch: handed))).sent == proof)
    #expect(rig.feed(.received(.abort(epoch: base, trouble))).sent == proof)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(welcome(isHandedOff: true))).sent == proof)
  }

  @Test("COMPLETE is said again on every link until it is acknowledged or given up")
  func completeIsSaidAgain() {
    var rig = DestinationRig.at(.acknowledging)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(welcome(isHandedOff: true))).sent == [.complete(epoch: handed)])
    #expect(rig.feed(.timer(.linger)).outcome?.ending == .completed)
  }
}

@Suite("DestinationCore: recovery from its journal")
struct DestinationRecoveryTests {
  @Test("nothing, or something else first, is no session")
  func noSession() {
    #expect(DestinationRig(recovering: [], vm: .stopped) == nil)
    #expect(DestinationRig(recovering: [goAccepted], vm: .stopped) == nil)
    #expect(DestinationRig(recovering: [opened, opened], vm: .stopped) == nil)
  }

  @Test(
    "before PREPARED, or with the VMM gone, a restart aborts",
    arguments: [
      ([opened], ObservedVM.stopped), ([opened], .gone), ([opened, prepared], .gone),
      ([opened, prepared, goAccepted, .runRuledOut(epoch: handed)], .stopped),
      ([opened, prepared, goAccepted, .runRuledOut(epoch: handed)], .gone),
    ])
  func aborts(records: [DestinationRecord], vm: ObservedVM) throws {
    var rig = try #require(DestinationRig(recovering: records, vm: vm))
    #expect(rig.start().deeds == [.dial, .killVM])
    guard case .journal(.aborted(base, _))? = rig.feed(.vmm(.killed)).first else {
      Issue.record("no ABORTED")
      return
    }
  }

  @Test("a prepared destination goes on waiting for GO")
  func prepares() throws {
    var rig = try #require(DestinationRig(recovering: [opened, prepared], vm: .stopped))
    #expect(rig.start().deeds == [.dial, .beginFaults])
    #expect(rig.core.progress == .prepared)
    rig.feed(.linkUp(welcome(isHandedOff: true)))
    #expect(rig.feed(.received(.go(epoch: handed))) == [.journal(goAccepted)])
  }

  @Test(
    "what a VMM that answers nothing is taken for",
    arguments: [
      ([opened], ObservedVM.stopped), ([opened, prepared], nil),
      ([opened, prepared, goAccepted], .running),
      ([opened, prepared, goAccepted, .runRuledOut(epoch: handed)], .stopped),
      ([opened, prepared, goAccepted, ran], .running),
      ([opened, prepared, goAccepted, ran, .complete(epoch: handed)], .running),
      ([opened, .aborted(epoch: base, trouble)], .stopped),
    ])
  func silent(records: [DestinationRecord], observed: ObservedVM?) throws {
    #expect(DestinationCore.observation(ofSilentVMBehind: records) == observed)
    guard let observed else { return }
    // Whatever it truly does, the same is done.
    var starts: [[DestinationEffect]] = []
    for vm in [observed, .running, .stopped] {
      var rig = try #require(DestinationRig(recovering: records, vm: vm))
      starts.append(rig.start().deeds.filter { $0 != .runVM })
    }
    #expect(starts[0] == starts[1] && starts[1] == starts[2])
  }

  @Test(
    "the mark of a pause makes a paused VM one that runs only where it has run",
    arguments: [
      ([], ObservedVM.stopped), ([opened], .stopped), ([opened, prepared], .stopped),
      ([opened, prepared, goAccepted], .stopped),
      ([opened, prepared, goAccepted, .runRuledOut(epoch: handed)], .stopped),
      ([opened, .aborted(epoch: base, trouble)], .stopped),
      ([opened, prepared, goAccepted, ran], .running),
      ([opened, prepared, goAccepted, ran, .complete(epoch: handed)], .running),
    ])
  func pausedBehind(records: [DestinationRecord], marked: ObservedVM) {
    typealias Core = DestinationCore
    #expect(Core.observation(ofPausedVMBehind: records, isPausedForLoss: true) == marked)
    #expect(Core.observation(ofPausedVMBehind: records, isPausedForLoss: false) == .stopped)
  }

  @Test("a VM that runs though GO was never accepted is not touched, and loudly parked")
  func foundRunning() throws {
    var rig = try #require(DestinationRig(recovering: [opened, prepared], vm: .running))
    let effects = rig.start()
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.contains(.killVM))
  }

  @Test(
    "behind GO_ACCEPTED the run command is repeated",
    arguments: [
      ObservedVM.stopped, .running,
    ])
  func runsAgain(vm: ObservedVM) throws {
    var rig = try #require(DestinationRig(recovering: [opened, prepared, goAccepted], vm: vm))
    #expect(rig.start().deeds == [.dial, .beginFaults, .runVM])
    #expect(
      rig.feed(.vmm(.running(since: Instant(nanoseconds: 1)))) == [.journal(ran)])
  }

  @Test("a refusal in a later life proves nothing: an earlier one may have let it run")
  func refusalAfterRestart() throws {
    var rig = try #require(
      DestinationRig(recovering: [opened, prepared, goAccepted], vm: .stopped))
    _ = rig.start()
    let effects = rig.feed(.vmm(.runRefused(isShownNotRunning: true, trouble)))
    #expect(effects.outcome?.ending == .parked)
  }

  @Test(
    "behind GO_ACCEPTED or RAN a VMM that is gone is lost, never aborted",
    arguments: [
      [opened, prepared, goAccepted], [opened, prepared, goAccepted, ran],
    ])
  func lost(records: [DestinationRecord]) throws {
    var rig = try #require(DestinationRig(recovering: records, vm: .gone))
    let effects = rig.start()
    #expect(effects.outcome?.destination == .killed)
    #expect(effects.outcome?.ending == .parked)
  }

  @Test("behind RAN it serves on, and says RAN at the next link")
  func running() throws {
    var rig = try #require(
      DestinationRig(recovering: [opened, prepared, goAccepted, ran], vm: .running))
    #expect(rig.start().deeds == [.dial, .beginFaults])
    let told = rig.feed(.linkUp(welcome(isHandedOff: true))).sent
    #expect(told == [.ran(epoch: handed, nanosecondsSinceStart: 0)])
  }

  @Test("behind COMPLETE it unregisters again and says COMPLETE")
  func complete() throws {
    var rig = try #require(
      DestinationRig(
        recovering: [opened, goAccepted, ran, .complete(epoch: handed)], vm: .running))
    #expect(rig.start().deeds == [.dial, .unregister])
    #expect(rig.feed(.linkUp(welcome(isHandedOff: true))).sent == [.complete(epoch: handed)])
  }

  @Test("behind ABORTED it only says so")
  func aborted() throws {
    var rig = try #require(
      DestinationRig(recovering: [opened, .aborted(epoch: base, trouble)], vm: .gone))
    #expect(rig.start().deeds == [.dial])
    #expect(rig.core.progress == .aborted)
    #expect(
      rig.feed(.linkUp(welcome(isHandedOff: true))).sent == [.aborted(epoch: base, trouble)])
  }
}
