import Codec
import Foundation
import Migration
import Pages
import Session
import System
import Testing
import Wire

@testable import PageServer

private let opened = SourceRecord.opened(
  session: testSession, epoch: ExportFixture.base, mode: .postCopy)
private let handedOff = SourceRecord.handedOff(epoch: ExportFixture.handed)
private let ran = SourceRecord.ranAcknowledged(epoch: ExportFixture.handed)
private let completed = SourceRecord.completed(epoch: ExportFixture.handed)
private let otherSession = SessionID(high: 9, low: 9)

private func binding(inode: UInt64 = 7) throws -> VMBinding {
  VMBinding(
    vmName: try VMName("web"), boot: try BootID.current(), vmm: nil,
    memory: Session.MemoryIdentity(device: 1, inode: inode, isVolatile: true))
}

private func history(_ records: [SourceRecord]) throws -> SessionHistory<SourceRecord> {
  SessionHistory(binding: try binding(), records: records)
}

private func otherOpened(epoch: UInt64) -> SourceRecord {
  .opened(session: otherSession, epoch: Epoch(rawValue: epoch), mode: .quick)
}

private func hello(
  _ session: SessionID = testSession, epoch: Epoch = ExportFixture.handed,
  _ progress: DestinationProgress = .ran
) -> Hello {
  Hello(
    version: WireLimits.version, role: .urgent, session: session, epoch: epoch,
    progress: progress, token: ExportFixture.token(1), vmName: "web", regions: [])
}

@Suite(.timeLimit(.minutes(5))) struct ExportSessionTests {
  private func session(
    _ fixture: ExportFixture, _ histories: [SessionHistory<SourceRecord>] = [],
    vmName: String = "web"
  ) throws -> ExportedSession {
    try ExportedSession.decide(
      try fixture.open(), vmName: VMName(vmName), histories: histories)
  }

  private func fixture(_ proof: ExportProof = .ranAcknowledged) throws -> ExportFixture {
    let fixture = try ExportFixture()
    try fixture.export(try TestMemory(pageCount: 4).open(), proof: proof)
    return fixture
  }

  /// The core takes the file's records for a journal, and serves.
  @Test func aCoreRecoversFromTheFile() throws {
    for (proof, state) in [
      (ExportProof.handedOff, SourceState.handedOff), (.ranAcknowledged, .serving),
    ] {
      let exported = try session(try fixture(proof))
      #expect(exported.records == exported.unrecorded)
      #expect(exported.records.prefix(2) == [opened, handedOff])
      var core = try #require(
        SourceCore(recovering: exported.records, vm: .gone, isCopy: true))
      #expect(core.state == state)
      #expect(core.session == testSession && core.epoch == ExportFixture.base)
      #expect(core.isHandedOff)
      var queue = EffectQueue<SourceEffect>()
      core.start(now: Instant(nanoseconds: 0), into: &queue)
      var effects: [SourceEffect] = []
      while let effect = queue.next() { effects.append(effect) }
      #expect(effects.prefix(3) == [.listen, .beginServing, .beginPush])
      #expect(!effects.contains(.resumeVM))
    }
  }

  /// There is no VM beside the file that could run on, and nothing may say that there is.
  @Test(arguments: [false, true]) func anAbortedDestinationLetsNothingRunHere(
    isOnReturn: Bool
  ) throws {
    let exported = try session(try fixture(.handedOff))
    var core = try #require(SourceCore(recovering: exported.records, vm: .gone, isCopy: true))
    var queue = EffectQueue<SourceEffect>()
    var effects: [SourceEffect] = []
    func handle(_ event: SourceEvent) {
      core.handle(event, now: Instant(nanoseconds: 1), into: &queue)
      while let effect = queue.next() { effects.append(effect) }
    }
    core.start(now: Instant(nanoseconds: 0), into: &queue)
    if isOnReturn {
      handle(.linkUp(.aborted))
    } else {
      handle(.linkUp(.prepared))
      #expect(effects.contains(.send(.go(epoch: ExportFixture.handed))))
      let reason = Refusal(.vmm, "its VMM died")
      handle(.received(.aborted(epoch: ExportFixture.base, reason)))
    }
    #expect(!effects.contains(.resumeVM))
    #expect(!effects.contains { if case .journal = $0 { true } else { false } })
    guard case .finish(let outcome) = effects.last else {
      Issue.record("the session goes on")
      return
    }
    #expect(outcome.ending == .parked)
    #expect(outcome.source == .absent && outcome.destination == .ruledOut)
    #expect(outcome.reason?.reason.contains("there is no VM here") == true)
  }

  @Test func anotherVMIsRefused() throws {
    let refusal = #expect(throws: Refusal.self) {
      try session(try fixture(), vmName: "db")
    }
    #expect(refusal?.code == .vm)
    #expect(refusal?.reason.contains("memory of VM \"web\", not of \"db\"") == true)
  }

  @Test func theJournalIsCompletedByWhatTheFileProves() throws {
    let fixture = try fixture()
    let fresh = try session(fixture, [try history([otherOpened(epoch: 40)])])
    #expect(fresh.unrecorded == [opened, handedOff, ran])
    let known = try session(fixture, [try history([opened, handedOff])])
    #expect(known.unrecorded == [ran])
    #expect(known.records == [opened, handedOff, ran])
    let all = try session(fixture, [try history([opened, handedOff, ran])])
    #expect(all.unrecorded.isEmpty)
    // The acknowledgement of COMPLETE may have been lost: the core gives it again.
    let done = try session(fixture, [try history([opened, handedOff, completed])])
    #expect(done.unrecorded.isEmpty)
    #expect(SourceCore(recovering: done.records, vm: .gone)?.state == .lingering)
  }

  @Test func whatThisHostKnowsBetterIsStale() throws {
    let fixture = try fixture()
    let again = ExportFixture.handed.advanced(by: 1)
    for record in [SourceRecord.resumed(epoch: again), .fenced(epoch: again)] {
      let refusal = #expect(throws: Refusal.self) {
        try session(fixture, [try history([opened, handedOff, record])])
      }
      #expect(refusal?.code == .session)
      #expect(refusal?.reason.contains("is out of date") == true)
      #expect(refusal?.reason.contains("epoch 6") == true)
    }
    let refusal = #expect(throws: Refusal.self) {
      try session(
        fixture, [try history([opened, handedOff]), try history([otherOpened(epoch: 6)])])
    }
    #expect(refusal?.reason.contains("session \(otherSession.text) came after it") == true)
    let torn = #expect(throws: Refusal.self) {
      try session(
        fixture,
        [
          try history([
            .opened(session: testSession, epoch: Epoch(rawValue: 2), mode: .postCopy), handedOff,
          ])
        ])
    }
    #expect(torn?.reason.contains("different beginnings") == true)
  }

  @Test func onlyTheDestinationOfTheSessionIsServed() throws {
    let exported = try fixture().open()
    #expect(exported.refusal(of: hello()) == nil)
    #expect(exported.refusal(of: hello(epoch: ExportFixture.base, .prepared)) == nil)
    let cases: [(Hello, String)] = [
      (hello(.none, epoch: Epoch(rawValue: 0), .unknown), "this destination is in none"),
      (hello(otherSession), "the destination of session \(otherSession.text)"),
      (hello(epoch: Epoch(rawValue: 6)), "the destination is in epoch 6"),
      (hello(epoch: Epoch(rawValue: 3)), "before the session"),
      (hello(epoch: ExportFixture.base, .aborted), "never ran the VM"),
    ]
    for (hello, text) in cases {
      let refusal = exported.refusal(of: hello)
      #expect(refusal?.code == .session)
      #expect(refusal?.reason.contains(text) == true, "\(String(describing: refusal))")
    }
    #expect(
      exported.refusal(of: hello(epoch: Epoch(rawValue: 6)))?.reason.contains("out of date")
        == true)
  }

  // MARK: What may be exported

  private func exportable(
    _ histories: [SessionHistory<SourceRecord>], _ current: VMBinding? = nil
  ) throws -> ExportableSession {
    try ExportableSession.decide(
      vmName: "web", current: try current ?? binding(), histories: histories)
  }

  @Test func onlyAHandedOverVMIsExported() throws {
    #expect(
      try exportable([try history([opened, handedOff])])
        == ExportableSession(
          session: testSession, epoch: ExportFixture.base, mode: .postCopy, proof: .handedOff))
    #expect(try exportable([try history([opened, handedOff, ran])]).proof == .ranAcknowledged)
    let again = ExportFixture.handed.advanced(by: 1)
    let cases: [([[SourceRecord]], String)] = [
      ([], "was never handed over by this host"),
      ([[opened]], "was not handed over"),
      ([[opened, .aborted(epoch: ExportFixture.base)]], "was not handed over"),
      ([[opened, handedOff, .resumed(epoch: again)]], "or came back"),
      ([[opened, handedOff, .fenced(epoch: again)]], "or came back"),
      ([[opened, handedOff, ran, completed]], "needs nothing from here"),
      ([[opened, handedOff], [otherOpened(epoch: 6)]], "was not handed over"),
    ]
    for (records, text) in cases {
      let refusal = #expect(throws: Refusal.self) {
        try exportable(try records.map { try history($0) })
      }
      #expect(refusal?.reason.contains(text) == true, "\(String(describing: refusal))")
    }
  }

  @Test func otherMemoryOfThatNameIsNotExported() throws {
    let refusal = #expect(throws: Refusal.self) {
      try exportable([try history([opened, handedOff])], try binding(inode: 8))
    }
    #expect(refusal?.reason.contains("never handed over") == true)
    let unmarked = VMBinding(
      vmName: try VMName("web"), boot: try BootID.current(), vmm: nil, memory: nil)
    let unknown = #expect(throws: Refusal.self) {
      try exportable([try history([opened, handedOff])], unmarked)
    }
    #expect(unknown?.reason.contains("neither process nor memory file") == true)
  }

  // MARK: Served by the engine

  private func awaited(
    _ fixture: ExportFixture, _ memory: TestMemory, _ pages: Set<Int>
  ) throws -> any MemoryBacking {
    let states = (0..<memory.pageCount).map {
      pages.contains($0) ? PageState.missing : .present
    }
    let awaited = try ExportAwaited.open(
      fixture.pageStates(states), session: testSession, layout: try memory.open().naturalLayout)
    try fixture.export(try memory.open(), awaited: awaited)
    return try fixture.open()
  }

  @Test func pushesAllThatIsHeldAndNothingElse() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 200)
    try memory.fill(stride(from: 0, to: 200, by: 3))
    let wanted = Set((0..<200).filter { $0 % 5 < 2 })
    let migration = try TestMigration(try awaited(fixture, memory, wanted))
    try migration.beginServing()
    try migration.bulk[0].grant(total: 1 << 24)
    migration.plane.beginPush()
    var arrivals = Arrivals(pageCount: 200)
    while arrivals.finished == 0 {
      try arrivals.book(try migration.bulk[0].receive(), layout: migration.layout) {
        $0 % 3 == 0 ? memory.content($0) : [UInt8](repeating: 0, count: 4096)
      }
    }
    #expect(arrivals.wrong.isEmpty)
    for page in 0..<200 {
      #expect(
        (arrivals.pushed[page] + arrivals.mapped[page] > 0) == wanted.contains(page), "\(page)")
    }
  }

  @Test func aDemandForAPageThatItLacksIsNeverAnsweredWithZeros() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 32)
    try memory.fill(0..<32)
    let migration = try TestMigration(
      try awaited(fixture, memory, [4, 5]), prefetch: nil)
    try migration.beginServing()
    try migration.urgent.request(4, sequence: 1)
    let answer = try migration.urgent.receive()
    #expect(answer.header.type == .pages && answer.payload == memory.content(4))
    try migration.urgent.request(6, sequence: 2)
    guard case .memoryLost(let error) = try migration.notice() else {
      Issue.record("a page that nobody has is told")
      return
    }
    #expect(
      error == .notInExport(name: "export:\(fixture.path)", offset: 6 * 4096))
    #expect(error.description.contains("the destination had it"))
  }
}
