import Migration
import Pages
import Testing
import Wire

private let beforeHandOff: [SourceState] = [
  .pausing, .frozen, .saving, .saved, .preparedUnsaved,
]

@Suite("SourceCore: the straight way and every way out of it")
struct SourceCoreTests {
  @Test("post-copy: each step has exactly its effects, and GO comes behind the durable record")
  func postCopyStraightWay() {
    var rig = SourceRig()
    let opened = SourceRecord.opened(session: testSession, epoch: base, mode: .postCopy)
    #expect(rig.start() == [.journal(opened)])
    #expect(rig.feed(.journal(.durable(opened))) == [.listen])
    #expect(rig.feed(.linkUp(.unknown)).deeds == [])
    #expect(rig.feed(.received(.ready(epoch: base))).deeds == [.pauseVM])
    #expect(
      rig.feed(.vmm(.paused(discardPageCount: PageCount(7)))).deeds == [
        .beginServing, .send(.frozen(epoch: base, discardPageCount: PageCount(7))),
      ])
    #expect(rig.feed(.received(.discarded(epoch: base))).deeds == [.saveDeviceState])
    #expect(rig.feed(.vmm(.deviceStateSaved)).deeds == [])
    #expect(
      rig.feed(.received(.prepared(epoch: base))).deeds == [
        .journal(.handedOff(epoch: handed))
      ])
    #expect(!rig.core.isHandedOff)
    #expect(
      rig.feed(.journal(.durable(.handedOff(epoch: handed)))).deeds == [
        .send(.go(epoch: handed))
      ])
    #expect(rig.core.isHandedOff)
    #expect(
      rig.feed(.received(.ran(epoch: handed, nanosecondsSinceStart: 400))).deeds == [
        .beginPush, .disableVM, .journalLazily(.ranAcknowledged(epoch: handed)),
      ])
    #expect(rig.feed(.vmm(.disabled)).deeds == [])
    #expect(
      rig.feed(.received(.complete(epoch: handed))).deeds == [
        .journal(.completed(epoch: handed))
      ])
    #expect(
      rig.feed(.journal(.durable(.completed(epoch: handed)))).deeds == [
        .send(.completeAcknowledged(epoch: handed)), .releaseMemory,
      ])
    let outcome = rig.feed(.linkDown(isFinal: true, lost)).outcome
    #expect(
      outcome == Outcome(ending: .completed, reason: nil, source: .disabled, destination: .runs))
  }

  @Test(
    "where everything is to be there first, the push begins behind the device state, not at GO",
    arguments: [MigrationMode.quick, .preCopy])
  func pushesEarly(mode: MigrationMode) {
    var rig = SourceRig.at(.pausing, mode: mode)
    let frozen = rig.feed(.vmm(.paused(discardPageCount: .zero)))
    #expect(
      frozen.deeds == [
        .beginServing,
        .send(.frozen(epoch: base, discardPageCount: .zero, fillsBeforeRun: true)),
      ])
    #expect(rig.feed(.received(.discarded(epoch: base))).deeds == [.saveDeviceState])
    #expect(rig.feed(.vmm(.deviceStateSaved)).deeds == [.beginPush])
    // Nothing was left to send: PREPARED may come first.
    rig = SourceRig.at(.preparedUnsaved, mode: mode)
    #expect(
      rig.feed(.vmm(.deviceStateSaved)).deeds == [
        .beginPush, .journal(.handedOff(epoch: handed)),
      ])
    rig = SourceRig.at(.handingOff, mode: mode)
    let go = rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    #expect(go.deeds == [.send(.go(epoch: handed))])
  }

  @Test("HANDED_OFF needs PREPARED and the VMM's own completion, in either order")
  func handOffNeedsBoth() {
    var rig = SourceRig.at(.saving)
    #expect(rig.feed(.received(.prepared(epoch: base))).deeds == [])
    #expect(rig.feed(.received(.prepared(epoch: base))).deeds == [], "said twice")
    #expect(rig.feed(.vmm(.deviceStateSaved)).deeds == [.journal(.handedOff(epoch: handed))])
  }

  @Test("the downtime is freeze to RAN, less what the destination measured")
  func downtime() {
    var rig = SourceRig.at(.handedOff)
    #expect(rig.core.times.downtimeNanoseconds == nil)
    rig.feed(.received(.ran(epoch: handed, nanosecondsSinceStart: 500)))
    // The rig's clock moves 1000 ns an event: READY came third, RAN ninth.
    #expect(rig.core.times.downtimeNanoseconds == 5500)
  }

  static let failures: [SourceEvent] = [
    .linkDown(isFinal: false, lost), .linkDown(isFinal: true, lost), .memoryLost(trouble),
    .operatorAbort, .operatorPark, .timer(.handOver), .vmm(.resumedByItself),
    .received(.aborted(epoch: base, trouble)), .received(.parked(epoch: base, trouble)),
    .received(.go(epoch: handed)), .received(.complete(epoch: handed)),
    .received(.ran(epoch: handed, nanosecondsSinceStart: 0)), .received(.prepared(epoch: again)),
  ]

  @Test(
    "any failure between freeze and hand-off resumes the VM and ends aborted", arguments: failures)
  func failureResumes(failure: SourceEvent) {
    for state in beforeHandOff {
      var rig = SourceRig.at(state)
      let effects = rig.feed(failure)
      #expect(effects.contains(.endServing) && effects.contains(.resumeVM), "\(state)")
      #expect(rig.core.state == .resuming)
      // Overtaken answers of the VMM mean nothing; then it runs.
      #expect(rig.feed(.vmm(.paused(discardPageCount: .zero))) == [])
      #expect(rig.feed(.vmm(.deviceStateSaved)) == [])
      var last = rig.feed(.vmm(.resumed))
      #expect(last.contains(.journalLazily(.aborted(epoch: base))))
      if last.outcome == nil {
        #expect(rig.core.state == .awaitingAborted)
        last = rig.feed(.timer(.linger))
      }
      #expect(last.outcome?.ending == .aborted)
      #expect(last.outcome?.source == .runs)
    }
  }

  @Test("memory is no longer served before the VM may write it")
  func servingEndsFirst() throws {
    var rig = SourceRig.at(.frozen)
    let effects = rig.feed(.operatorAbort)
    let ends = try #require(effects.firstIndex(of: .endServing))
    let resumes = try #require(effects.firstIndex(of: .resumeVM))
    #expect(ends < resumes)
  }

  @Test("the VMM's own failures resume the VM as well")
  func vmmFailuresResume() {
    var pausing = SourceRig.at(.pausing)
    #expect(pausing.feed(.vmm(.pauseFailed(trouble))).contains(.resumeVM))
    for state in [SourceState.saving, .preparedUnsaved] {
      var rig = SourceRig.at(state)
      #expect(rig.feed(.vmm(.deviceStateSaveFailed(trouble))).contains(.resumeVM))
    }
  }

  @Test("a VM that cannot be resumed is told as what it is: stopped, everything kept")
  func resumeFails() {
    var rig = SourceRig.at(.resuming)
    let outcome = rig.feed(.vmm(.resumeFailed(trouble))).outcome
    #expect(outcome?.ending == .parked)
    #expect(outcome?.source == .stopped)
  }

  @Test("before the freeze nothing has to be resumed")
  func failureWhilePreparing() {
    var rig = SourceRig.at(.preparing)
    let aborted = rig.feed(.operatorAbort)
    #expect(!aborted.contains(.resumeVM))
    #expect(aborted.sent == [.abort(epoch: base, stopRequest)])
    let answered = rig.feed(.received(.aborted(epoch: base, trouble)))
    #expect(
      answered.outcome
        == Outcome(ending: .aborted, reason: stopRequest, source: .runs, destination: .killed))

    var quiet = SourceRig.at(.preparing)
    #expect(quiet.feed(.linkDown(isFinal: false, lost)).deeds == [], "it may dial again")
    #expect(quiet.feed(.linkUp(.preparing)).deeds == [])
    #expect(quiet.feed(.received(.ready(epoch: base))).deeds == [.pauseVM])
  }

  @Test("without a journal nothing begins")
  func openedFails() {
    var rig = SourceRig.at(.opening)
    let opened = SourceRecord.opened(session: testSession, epoch: base, mode: .postCopy)
    let effects = rig.feed(.journal(.failed(opened, mayBeDurable: false, trouble)))
    #expect(
      effects.outcome
        == Outcome(ending: .refused, reason: trouble, source: .runs, destination: .untouched))
  }

  @Test(
    "the peer's progress must fit: a used journal is turned away while preparing",
    arguments: [
      DestinationProgress.prepared, .goAccepted, .ran, .complete,
    ])
  func foreignProgress(progress: DestinationProgress) {
    var rig = SourceRig()
    _ = rig.start()
    rig.feed(
      .journal(.durable(.opened(session: testSession, epoch: base, mode: .postCopy))))
    #expect(rig.feed(.linkUp(progress)).disconnects)
    #expect(rig.core.state == .preparing)
  }

  @Test("messages that come late or twice change nothing")
  func duplicates() {
    let told: [ControlMessage] = [
      .ready(epoch: base), .discarded(epoch: base), .prepared(epoch: base),
    ]
    for state in [SourceState.handingOff, .handedOff, .serving, .completing, .resuming] {
      for message in told {
        var rig = SourceRig.at(state)
        #expect(rig.feed(.received(message)) == [], "\(message) in \(state)")
        #expect(rig.core.state == state)
      }
    }
    var serving = SourceRig.at(.serving)
    #expect(serving.feed(.received(.ran(epoch: handed, nanosecondsSinceStart: 1))) == [])
    var completing = SourceRig.at(.completing)
    #expect(completing.feed(.received(.complete(epoch: handed))) == [])
  }

  @Test("ping is answered everywhere, also when there is nothing else to say")
  func ping() {
    for state in SourceState.allCases where state != .opening && state != .finished {
      var rig = SourceRig.at(state)
      #expect(rig.feed(.received(.ping(sequence: 9))).sent == [.pong(sequence: 9)], "\(state)")
      #expect(rig.feed(.received(.pong(sequence: 9))) == [])
    }
  }

  @Test(
    "after the hand-off a broken rule costs the link, not the session",
    arguments: [
      SourceState.handingOff, .handedOff, .serving, .completing, .lingering, .revoking,
    ])
  func violationAfterHandOff(state: SourceState) {
    var rig = SourceRig.at(state)
    let effects = rig.feed(.received(.frozen(epoch: base, discardPageCount: .zero)))
    #expect(effects.disconnects && effects.count == 1)
    #expect(rig.core.state == state)
  }

  @Test("an impossible answer of our own edge stops the process")
  func impossibleAnswer() async {
    await #expect(processExitsWith: .failure) {
      var rig = SourceRig.at(.preparing)
      rig.feed(.vmm(.deviceStateSaved))
    }
    await #expect(processExitsWith: .failure) {
      var rig = SourceRig.at(.preparing)
      rig.feed(.linkUp(.unknown))
    }
    await #expect(processExitsWith: .failure) {
      var rig = SourceRig.at(.handedOff)
      rig.feed(.journal(.durable(.handedOff(epoch: handed))))
    }
  }

  @Test("a finished core hears nothing any more")
  func finishedIsDeaf() {
    for event in Self.failures {
      var rig = SourceRig.at(.finished)
      #expect(rig.feed(event) == [])
    }
  }
}
