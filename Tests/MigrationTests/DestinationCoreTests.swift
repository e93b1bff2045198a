import Migration
import Pages
import Testing
import Wire

private let opened = DestinationRecord.opened(session: testSession, epoch: base, mode: .postCopy)

private let beforeGo: [DestinationState] = [
  .opening, .ready, .discarding, .awaitingDeviceState, .loading, .prepared,
]

@Suite("DestinationCore: the straight way and every way out of it")
struct DestinationCoreTests {
  @Test("post-copy: each step has exactly its effects")
  func postCopyStraightWay() {
    var rig = DestinationRig()
    #expect(rig.start() == [.dial])
    #expect(rig.feed(.linkUp(welcome())) == [.journal(opened)])
    #expect(rig.feed(.journal(.durable(opened))) == [.send(.ready(epoch: base))])
    #expect(
      rig.feed(.received(.frozen(epoch: base, discardPageCount: .zero))) == [
        .beginFaults, .send(.discarded(epoch: base)),
      ])
    #expect(rig.feed(.deviceStateReceived) == [.loadDeviceState])
    #expect(
      rig.feed(.vmm(.loaded)) == [
        .journalLazily(.prepared(epoch: base)), .send(.prepared(epoch: base)),
      ])
    #expect(rig.core.progress == .prepared)
    #expect(rig.feed(.received(.go(epoch: handed))) == [.journal(.goAccepted(epoch: handed))])
    #expect(rig.feed(.journal(.durable(.goAccepted(epoch: handed)))) == [.runVM])
    #expect(
      rig.feed(.vmm(.running(since: Instant(nanoseconds: 8500)))) == [
        .journal(.ran(epoch: handed))
      ])
    #expect(
      rig.feed(.journal(.durable(.ran(epoch: handed)))) == [
        .send(
          .ran(
            epoch: handed, nanosecondsSinceStart: 500,
            PauseParts(
              transferNanoseconds: 1000, loadNanoseconds: 1000, acceptNanoseconds: 1000,
              startNanoseconds: 1500)))
      ])
    #expect(rig.feed(.allResident) == [.journal(.complete(epoch: handed))])
    #expect(
      rig.feed(.journal(.durable(.complete(epoch: handed)))).deeds == [
        .unregister, .send(.complete(epoch: handed)),
      ])
    #expect(
      rig.feed(.received(.completeAcknowledged(epoch: handed))).outcome
        == Outcome(ending: .completed, reason: nil, source: .disabled, destination: .runs))
  }

  @Test("seeded pages are discarded before a fault is answered and before DISCARDED is said")
  func discardsComeFirst() {
    var rig = DestinationRig.at(.ready)
    let frozen = rig.feed(.received(.frozen(epoch: base, discardPageCount: PageCount(3))))
    #expect(frozen == [.discard(PageCount(3))])
    #expect(rig.feed(.discardsApplied) == [.beginFaults, .send(.discarded(epoch: base))])
  }

  @Test(
    "device state that comes before the discards are applied is not loaded",
    arguments: [
      DestinationState.ready, .discarding,
    ])
  func noLoadBeforeDiscards(state: DestinationState) {
    var rig = DestinationRig.at(state)
    let effects = rig.feed(.deviceStateReceived)
    #expect(!effects.contains(.loadDeviceState))
    #expect(effects.contains(.killVM))
  }

  @Test(
    "where FROZEN asks for it, PREPARED waits for the last page, before or after the load",
    arguments: [DestinationEvent.allHere, .allResident])
  func waitsForPages(pages: DestinationEvent) {
    let prepared: [DestinationEffect] = [
      .journalLazily(.prepared(epoch: base)), .send(.prepared(epoch: base)),
    ]
    var late = DestinationRig.at(.loading, mode: .quick)
    #expect(late.feed(.vmm(.loaded)) == [])
    #expect(late.core.state == .filling)
    #expect(late.feed(pages) == prepared)

    var early = DestinationRig.at(.loading, mode: .quick)
    #expect(early.feed(pages) == [])
    #expect(early.feed(.vmm(.loaded)) == prepared)
  }

  @Test("what is here and not installed lets the VM run, and does not complete the migration")
  func installedLater() {
    var rig = DestinationRig.at(.loading, mode: .quick)
    rig.feed(.allHere)
    rig.feed(.vmm(.loaded))
    rig.feed(.received(.go(epoch: handed)))
    rig.feed(.journal(.durable(.goAccepted(epoch: handed))))
    rig.feed(.vmm(.running(since: Instant(nanoseconds: 5000))))
    rig.feed(.journal(.durable(.ran(epoch: handed))))
    #expect(rig.core.state == .running)
    #expect(rig.feed(.allHere) == [], "said once")
    #expect(rig.feed(.allResident) == [.journal(.complete(epoch: handed))])
  }

  @Test("pages that are all here before RAN complete right behind it")
  func completeBehindRan() {
    var rig = DestinationRig.at(.recordingRan)
    #expect(rig.feed(.allResident) == [])
    let effects = rig.feed(.journal(.durable(.ran(epoch: handed))))
    #expect(effects.last == .journal(.complete(epoch: handed)))
    #expect(rig.feed(.allResident) == [], "said once")
  }

  static let failures: [DestinationEvent] = [
    .linkDown(isFinal: true, lost), .operatorAbort, .memoryFailed(trouble),
    .vmm(.died(trouble)), .received(.abort(epoch: base, trouble)),
    .received(.completeAcknowledged(epoch: handed)), .received(.go(epoch: again)),
    .received(.ran(epoch: handed, nanosecondsSinceStart: 0)),
  ]

  @Test("before GO every failure kills the VMM, then proves it, then says so", arguments: failures)
  func failureBeforeGo(failure: DestinationEvent) {
    for state in beforeGo {
      var rig = DestinationRig.at(state)
      let effects = rig.feed(failure)
      #expect(effects.deeds == [.killVM], "\(failure) in \(state)")
      // Answers to what was under way mean nothing more.
      if state == .loading { #expect(rig.feed(.vmm(.loaded)) == []) }
      if state == .discarding { #expect(rig.feed(.discardsApplied) == []) }
      if state == .opening { #expect(rig.feed(.journal(.durable(opened))) == []) }
      #expect(rig.feed(.deviceStateReceived) == [])
      let killed = rig.feed(.vmm(.killed))
      guard case .journal(.aborted(base, let reason))? = killed.first, killed.count == 1 else {
        Issue.record("no ABORTED in \(killed)")
        return
      }
      let proven = rig.feed(.journal(.durable(.aborted(epoch: base, reason))))
      #expect(rig.core.progress == .aborted)
      if failure == .linkDown(isFinal: true, lost) {
        #expect(proven.outcome?.ending == .aborted)
      } else {
        #expect(proven.sent == [.aborted(epoch: base, reason)])
        #expect(rig.feed(.timer(.linger)).outcome?.destination == .killed)
      }
    }
  }

  @Test("a link that may come back is waited for, up to the deadline, which aborts")
  func linkLossBeforeGo() {
    for state in beforeGo {
      var rig = DestinationRig.at(state)
      #expect(rig.feed(.linkDown(isFinal: false, lost)).deeds == [])
      #expect(rig.core.state == state)
      #expect(rig.feed(.timer(.giveUp)).deeds == [.killVM])
    }
    var rig = DestinationRig.at(.ready)
    #expect(rig.feed(.timer(.giveUp)) == [], "a stale timer with the link up")
    rig.feed(.linkDown(isFinal: false, lost))
    #expect(rig.feed(.linkUp(welcome())).sent == [.ready(epoch: base)], "READY is said again")
  }

  @Test("a load that the kill cuts short may be answered at any time after it")
  func loadCutShort() {
    for state in [DestinationState.killing, .recordingAborted, .aborted] {
      var rig = DestinationRig.at(state)
      #expect(rig.feed(.vmm(.loadFailed(trouble))) == [])
      #expect(rig.feed(.vmm(.died(trouble))) == [], "its pidfd says so as well")
      #expect(rig.core.state == state)
    }
  }

  @Test("a failing load aborts; failing discards abort")
  func ownFailures() {
    var loading = DestinationRig.at(.loading)
    #expect(loading.feed(.vmm(.loadFailed(trouble))).deeds == [.killVM])
    var discarding = DestinationRig.at(.discarding)
    #expect(discarding.feed(.discardFailed(trouble)).deeds == [.killVM])
  }

  @Test("before a session is known there is nothing to kill or to prove")
  func dialing() {
    for event in [
      DestinationEvent.linkRefused(trouble), .linkDown(isFinal: true, trouble), .operatorAbort,
      .vmm(.died(trouble)),
    ] {
      var rig = DestinationRig.at(.dialing)
      let effects = rig.feed(event)
      #expect(effects.outcome?.ending == .refused)
      #expect(!effects.contains(.killVM))
    }
    var rig = DestinationRig.at(.dialing)
    #expect(rig.feed(.linkDown(isFinal: false, lost)).deeds == [])
  }

  @Test("a source that has handed off already has nothing for a fresh destination")
  func joinsTooLate() {
    var rig = DestinationRig.at(.dialing)
    let effects = rig.feed(.linkUp(welcome(isHandedOff: true)))
    #expect(effects.outcome?.ending == .refused)
    #expect(effects.count == 1, "nothing is journalled, nothing is killed")
  }

  @Test("a journal that cannot take OPENED refuses the session without touching the VM")
  func openedFails() {
    var rig = DestinationRig.at(.opening)
    let effects = rig.feed(.journal(.failed(opened, mayBeDurable: true, trouble)))
    #expect(effects.disconnects)
    #expect(effects.outcome?.ending == .refused)
    #expect(!effects.contains(.killVM))
  }

  @Test("another session's welcome, or a source that has forgotten its hand-off, is turned away")
  func foreignWelcome() {
    var ready = DestinationRig.at(.ready)
    ready.feed(.linkDown(isFinal: false, lost))
    #expect(ready.feed(.linkUp(welcome(epoch: again))).disconnects)
    var running = DestinationRig.at(.running)
    running.feed(.linkDown(isFinal: false, lost))
    #expect(running.feed(.linkUp(welcome(isHandedOff: false))).disconnects)
    #expect(running.core.state == .running)
  }

  @Test("late and repeated messages change nothing")
  func duplicates() {
    for state in DestinationState.allCases
    where ![.dialing, .opening, .ready, .finished].contains(state) {
      var rig = DestinationRig.at(state)
      let effects = rig.feed(.received(.frozen(epoch: base, discardPageCount: .zero)))
      #expect(effects == [], "\(state)")
    }
    for state in [DestinationState.starting, .recordingRan, .running, .completing, .killing] {
      var rig = DestinationRig.at(state)
      #expect(rig.feed(.received(.go(epoch: handed))) == [], "\(state)")
    }
  }

  @Test(
    "GO before PREPARED is a broken rule, not a start",
    arguments: [
      DestinationState.ready, .discarding, .awaitingDeviceState, .loading,
    ])
  func earlyGo(state: DestinationState) {
    var rig = DestinationRig.at(state)
    #expect(rig.feed(.received(.go(epoch: handed))).deeds == [.killVM])
  }

  @Test(
    "the source may not take GO back",
    arguments: [
      DestinationState.acceptingGo, .starting, .recordingRan, .running, .completing,
      .acknowledging,
    ])
  func abortAfterGo(state: DestinationState) {
    var rig = DestinationRig.at(state)
    let effects = rig.feed(.received(.abort(epoch: base, trouble)))
    #expect(effects.disconnects && effects.count == 1)
    #expect(rig.core.state == state)
  }

  @Test("ping is answered in every state with a link")
  func ping() {
    for state in DestinationState.allCases
    where ![.dialing, .finished].contains(state) {
      var rig = DestinationRig.at(state)
      #expect(rig.feed(.received(.ping(sequence: 3))).sent == [.pong(sequence: 3)], "\(state)")
    }
  }

  @Test("an impossible answer of our own edge stops the process")
  func impossibleAnswer() async {
    await #expect(processExitsWith: .failure) {
      var rig = DestinationRig.at(.ready)
      rig.feed(.vmm(.loaded))
    }
    await #expect(processExitsWith: .failure) {
      var rig = DestinationRig.at(.prepared)
      rig.feed(.vmm(.killed))
    }
    await #expect(processExitsWith: .failure) {
      var rig = DestinationRig.at(.running)
      rig.feed(.journal(.durable(.goAccepted(epoch: handed))))
    }
  }
}
