import Migration
import Pages
import Testing
import Wire

/// GO was sent, RAN has not come, the link is gone: the destination runs or does not. The recurring
/// bug of this field, so its rules are written down and tested before all others.
@Suite("The lost-acknowledgement window")
struct LostAcknowledgementTests {
  /// Everything that can reach a source in the window except the destination's own word.
  static let noise: [SourceEvent] = [
    .linkDown(isFinal: false, lost), .linkUp(.unknown), .linkUp(.preparing), .linkUp(.prepared),
    .linkUp(.goAccepted), .linkUp(.ran), .linkUp(.complete),
    .received(.ready(epoch: base)), .received(.discarded(epoch: base)),
    .received(.prepared(epoch: base)), .received(.go(epoch: handed)),
    .received(.abort(epoch: base, trouble)), .received(.ping(sequence: 1)),
    .received(.aborted(epoch: again, trouble)), .received(.aborted(epoch: handed, trouble)),
    .timer(.handOver), .timer(.linger), .timer(.giveUp), .operatorAbort, .operatorPark,
    .memoryLost(trouble), .linkDown(isFinal: true, lost), .received(.parked(epoch: base, trouble)),
    .vmm(.resumedByItself),
  ]

  /// Whether an edge can deliver the event at all: links alternate.
  private func isPossible(_ event: SourceEvent, isLinkUp: Bool) -> Bool {
    if case .linkUp = event { return !isLinkUp }
    return true
  }

  private func isLinkUp(after event: SourceEvent, before: Bool) -> Bool {
    switch event {
    case .linkUp: true
    case .linkDown: false
    default: before
    }
  }

  @Test("no sequence of three events without the destination's word resumes the source")
  func sourceNeverResumesByItself() {
    var sequenceCount = 0
    func explore(_ rig: SourceRig, isLinkUp: Bool, depth: Int, trail: [SourceEvent]) {
      guard depth > 0 else { return }
      for event in Self.noise where isPossible(event, isLinkUp: isLinkUp) {
        var next = rig
        let effects = next.feed(event)
        sequenceCount += 1
        let resumes =
          effects.contains(.resumeVM)
          || effects.contains(.journal(.resumed(epoch: again)))
          || effects.contains(.releaseMemory) || effects.outcome?.ending == .aborted
        #expect(!resumes, "\(trail + [event])")
        explore(
          next, isLinkUp: self.isLinkUp(after: event, before: isLinkUp), depth: depth - 1,
          trail: trail + [event])
      }
    }
    explore(.at(.handedOff), isLinkUp: true, depth: 3, trail: [])
    #expect(sequenceCount > 5000)
  }

  @Test("GO is sent again when the link comes back and the destination has not accepted it")
  func goIsSentAgain() {
    var rig = SourceRig.at(.handedOff)
    #expect(rig.feed(.linkDown(isFinal: false, lost)).deeds == [])
    #expect(rig.feed(.linkUp(.prepared)).sent == [.go(epoch: handed)])
    #expect(rig.feed(.linkDown(isFinal: false, lost)).deeds == [])
    #expect(rig.feed(.linkUp(.prepared)).sent == [.go(epoch: handed)], "as often as needed")
    #expect(rig.core.state == .handedOff)
  }

  @Test(
    "a destination that accepted GO is waited for, not told again",
    arguments: [
      DestinationProgress.goAccepted, .ran,
    ])
  func acceptedGoIsWaitedFor(progress: DestinationProgress) {
    var rig = SourceRig.at(.handedOff)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(progress)).deeds == [])
    #expect(rig.core.state == .handedOff)
  }

  @Test(
    "a missing or foreign journal is never proof",
    arguments: [
      DestinationProgress.unknown, .preparing,
    ])
  func unknownIsNoProof(progress: DestinationProgress) {
    var rig = SourceRig.at(.handedOff)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(progress)).disconnects)
    #expect(rig.core.state == .handedOff)
  }

  @Test("RAN on a later link closes the window for good")
  func ranOnALaterLink() {
    var rig = SourceRig.at(.handedOff)
    rig.feed(.linkDown(isFinal: false, lost))
    rig.feed(.linkUp(.ran))
    let effects = rig.feed(.received(.ran(epoch: handed, nanosecondsSinceStart: 9)))
    #expect(effects == [.beginPush, .disableVM, .journalLazily(.ranAcknowledged(epoch: handed))])
    #expect(rig.feed(.received(.aborted(epoch: base, trouble))).disconnects)
    #expect(rig.core.state == .serving)
  }

  @Test("COMPLETE alone closes it as well: RAN may have been lost with the link")
  func completeImpliesRan() {
    var rig = SourceRig.at(.handedOff)
    let effects = rig.feed(.received(.complete(epoch: handed)))
    #expect(
      effects.deeds == [
        .disableVM, .journalLazily(.ranAcknowledged(epoch: handed)),
        .journal(.completed(epoch: handed)),
      ])
  }

  @Test("a hello that proves COMPLETE is as good as the message")
  func completeInTheHello() {
    var rig = SourceRig.at(.handedOff)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(
      rig.feed(.linkUp(.complete)).deeds == [
        .disableVM, .journalLazily(.ranAcknowledged(epoch: handed)),
        .journal(.completed(epoch: handed)),
      ])
    #expect(
      rig.feed(.received(.complete(epoch: handed))) == [], "and said again it changes nothing")
  }

  @Test("ABORTED is the only way back, and RESUMED is durable before the VM runs")
  func abortedIsTheOnlyWayBack() {
    var rig = SourceRig.at(.handedOff)
    let proof = rig.feed(.received(.aborted(epoch: base, trouble)))
    #expect(proof.deeds == [.journal(.resumed(epoch: again))])
    let resumed = rig.feed(.journal(.durable(.resumed(epoch: again))))
    #expect(resumed.deeds == [.endServing, .resumeVM])
    let outcome = rig.feed(.vmm(.resumed)).outcome
    #expect(
      outcome
        == Outcome(ending: .aborted, reason: trouble, source: .runs, destination: .killed))
  }

  @Test("a hello that proves ABORTED is as good as the message")
  func abortedInTheHello() {
    var rig = SourceRig.at(.handedOff)
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(.aborted)).deeds == [.journal(.resumed(epoch: again))])
  }

  @Test("with the proof but without a journal the VM stays stopped")
  func proofWithoutJournal() {
    var rig = SourceRig.at(.recordingResume)
    let effects = rig.feed(
      .journal(.failed(.resumed(epoch: again), mayBeDurable: true, trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.contains(.resumeVM))
  }

  @Test("a final loss parks both sides with everything kept")
  func finalLossParks() {
    var source = SourceRig.at(.handedOff)
    let effects = source.feed(.linkDown(isFinal: true, lost))
    #expect(
      effects.outcome
        == Outcome(ending: .parked, reason: lost, source: .stopped, destination: .mayRun))
    #expect(!effects.contains(.endServing) && !effects.contains(.releaseMemory))

    var destination = DestinationRig.at(.running)
    let parked = destination.feed(.linkDown(isFinal: true, lost))
    #expect(
      parked.outcome
        == Outcome(ending: .parked, reason: lost, source: .stopped, destination: .runs))
    #expect(!parked.contains(.unregister) && !parked.contains(.killVM))
  }

  @Test("a source restarted in the window sends GO, and never resumes")
  func restartInTheWindow() throws {
    var rig = try #require(
      SourceRig(
        recovering: [
          .opened(session: testSession, epoch: base, mode: .postCopy), .handedOff(epoch: handed),
        ], vm: .stopped))
    #expect(rig.start().deeds == [.listen, .beginServing, .beginPush])
    #expect(rig.feed(.linkUp(.prepared)).sent == [.go(epoch: handed)])
  }

  /// Everything that can reach a prepared destination except GO.
  static let silence: [DestinationEvent] = [
    .linkDown(isFinal: false, lost), .linkUp(welcome()), .linkUp(welcome(isHandedOff: true)),
    .linkRefused(trouble), .timer(.giveUp), .timer(.linger), .allResident,
    .received(.frozen(epoch: base, discardPageCount: .zero)),
    .received(.go(epoch: base)), .received(.go(epoch: again)),
    .received(.completeAcknowledged(epoch: handed)), .received(.ping(sequence: 1)),
    .received(.abort(epoch: base, trouble)), .received(.parked(epoch: base, trouble)),
    .operatorAbort, .operatorPark, .memoryFailed(trouble), .linkDown(isFinal: true, lost),
  ]

  @Test("no sequence of three events without GO runs a prepared destination")
  func destinationNeverRunsByItself() {
    func explore(_ rig: DestinationRig, isLinkUp: Bool, depth: Int) {
      guard depth > 0 else { return }
      for event in Self.silence {
        if case .linkUp = event, isLinkUp { continue }
        var next = rig
        let effects = next.feed(event)
        let runs =
          effects.contains(.runVM) || effects.contains(.journal(.goAccepted(epoch: handed)))
        #expect(!runs, "\(event)")
        let isUp: Bool
        switch event {
        case .linkUp: isUp = true
        case .linkDown: isUp = false
        default: isUp = isLinkUp
        }
        explore(next, isLinkUp: isUp, depth: depth - 1)
      }
    }
    explore(.at(.prepared), isLinkUp: true, depth: 3)
  }

  @Test("GO is accepted once, durably, before the VM is told to run")
  func goIsDurableBeforeRun() {
    var rig = DestinationRig.at(.prepared)
    #expect(rig.feed(.received(.go(epoch: handed))) == [.journal(.goAccepted(epoch: handed))])
    #expect(rig.feed(.received(.go(epoch: handed))) == [], "a repeated GO changes nothing")
    #expect(rig.feed(.journal(.durable(.goAccepted(epoch: handed)))) == [.runVM])
    #expect(rig.feed(.received(.go(epoch: handed))) == [])
  }

  @Test("a destination says RAN again on every link until it can say COMPLETE")
  func ranIsSaidAgain() {
    var rig = DestinationRig.at(.running)
    rig.feed(.linkDown(isFinal: false, lost))
    let effects = rig.feed(.linkUp(welcome(isHandedOff: true)))
    guard case .ran(handed, _, _)? = effects.sent.first else {
      Issue.record("RAN is missing in \(effects)")
      return
    }
  }
}
