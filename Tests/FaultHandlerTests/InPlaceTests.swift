import Codec
import Glibc
import Migration
import Pages
import System
import Testing
import UFFD
import VMM
import Wire

@testable import FaultHandler

/// Seeds of a VMM that sends its memory's file: they go into the memory itself.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct InPlaceTests {
  func fixture(_ change: (inout PlaneFixture.Shape) -> Void = { _ in }) throws
    -> PlaneFixture
  {
    var shape = PlaneFixture.Shape()
    shape.sendsFile = true
    shape.placement = .inPlace
    change(&shape)
    return try SeedTests.fixture(shape)
  }

  private func discard(_ runs: [Range<Int>], _ fixture: PlaneFixture) throws {
    try fixture.source.sendDiscards(runs.map { ScriptedSource.run($0) })
    _ = try fixture.event { if case .discarded = $0 { true } else { false } }
  }

  func awaitStale(_ fixture: PlaneFixture) throws -> Errno {
    let event = try fixture.event { if case .staleInPlace = $0 { true } else { false } }
    guard case .staleInPlace(let errno) = event else { return Errno(rawValue: 0) }
    return errno
  }

  private func unreadFaultCount(_ fixture: PlaneFixture) throws -> Int {
    try UserfaultStatus(ofDescriptor: fixture.userfault.handle.rawValue).unreadFaultCount
  }

  private func awaitUnreadFaults(_ count: Int, _ fixture: PlaneFixture) throws {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 120_000_000_000)
    while try unreadFaultCount(fixture) < count {
      try #require(MonotonicClock.now() < deadline, "somebody waits")
      _ = sched_yield()
    }
  }

  @Test(arguments: [1, 3])
  func whatIsSeededIsThereWhenFaultsAreAnswered(bulkCount: Int) throws {
    let fixture = try fixture { $0.bulkCount = bulkCount }
    for start in stride(from: 0, to: 48, by: 16) {
      try fixture.source.sendSeeds(
        start..<start + 16, on: fixture.source.bulk[start / 16 % bulkCount])
    }
    try fixture.source.sendSeedZeros(48..<64, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    #expect(fixture.count(of: .staged) == 48)
    #expect(try fixture.guest.fileDataRuns() == [0..<48])
    // The VM is not told to run yet.
    try fixture.plane.startFaults()
    try fixture.awaitAllResident()
    #expect(fixture.count(of: .present) == 48 && fixture.count(of: .zero) == 16)
    for page in 0..<48 { #expect(fixture.guest.holds(PageContent.word(page), page: page)) }
    let statistics = fixture.plane.statistics()
    #expect(statistics.inPlacePageCount == 48 && statistics.seededPageCount == 64)
    // Nothing was copied a second time, and nobody had to wait.
    #expect(statistics.stageInstalledPageCount == 0 && statistics.faultCount == 0)
    #expect(try fixture.reader(page: 50).value() == 0)
    try fixture.finish()
  }

  @Test func aLaterSeedTakesTheEarlierOnesPlace() throws {
    let fixture = try fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendSeeds(0..<8, version: 1, on: bulk)
    try fixture.source.sendSeedZeros(8..<12, on: bulk)
    try fixture.source.endRound(1)
    try fixture.source.sendPacked(0..<4, as: .lz4, isSeed: true, since: 1, on: bulk)
    // Of one run, some pages are there and some are not.
    try fixture.source.sendSeeds(6..<10, on: bulk)
    try fixture.source.sendSeedZeros(4..<6, on: bulk)
    try fixture.source.endRound(2)
    #expect(try fixture.guest.fileDataRuns() == [0..<4, 6..<10])
    try fixture.startFaults()
    for page in 0..<12 {
      let isZero = (4..<6).contains(page) || page >= 10
      #expect(
        try fixture.reader(page: page).value() == (isZero ? 0 : PageContent.word(page)),
        "page \(page)")
    }
    #expect(fixture.plane.statistics().demandCount == 0)
  }

  /// P3: it is gone from the memory before anybody is answered, and whoever touches it waits.
  @Test func whatIsDiscardedIsGone() throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.sendSeeds(16..<32, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    // The last of them were never seeded.
    try discard([0..<12, 12..<17, 40..<44], fixture)
    #expect(try fixture.guest.fileDataRuns() == [17..<32])
    #expect(fixture.count(of: .present) == 15 && fixture.count(of: .missing) == 49)
    try fixture.startFaults()
    let reader = try fixture.reader(page: 10)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(10..<11))
    try fixture.source.sendPages(0..<16, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(10))
    #expect(fixture.guest.holds(PageContent.word(19), page: 19))
  }

  /// What has changed of pages that are not all here is of no use; what is here of them is stale.
  @Test func aDeltaOfSeedsThatAreNotAllHereTakesThemOut() throws {
    let fixture = try fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendSeeds(0..<8, version: 1, on: bulk)
    try fixture.source.sendPacked(0..<16, as: .lz4, isSeed: true, since: 1, on: bulk)
    try fixture.source.endRound(1)
    #expect(fixture.count(of: .staged) == 0)
    #expect(try fixture.guest.fileDataRuns() == [])
  }

  /// Whoever waits since before the seed is woken behind the last one, not by the first.
  @Test func whoWaitsSeesTheLastSeed() throws {
    let fixture = try fixture()
    let reader = try fixture.reader(page: 5)
    let removed = try fixture.reader(page: 6)
    try awaitUnreadFaults(2, fixture)
    try fixture.source.sendSeeds(0..<8, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.source.sendSeeds(0..<6, on: fixture.source.bulk[0])
    try discard([6..<8], fixture)
    try fixture.startFaults()
    #expect(try reader.value() == PageContent.word(5))
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(6..<7))
    try fixture.source.sendPages(6..<7, on: fixture.source.bulk[0])
    #expect(try removed.value() == PageContent.word(6))
  }

  // MARK: What others do to the memory

  /// Nobody has seeded it: whatever it is, it is not the source's.
  @Test func whatNobodySeededIsTakenOut() throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<4, on: fixture.source.bulk[0])
    try fixture.guest.plant(1, page: 4)
    try fixture.guest.plant(2, page: 20)
    try fixture.source.endRound(1)
    try fixture.startFaults()
    #expect(try fixture.guest.fileDataRuns() == [0..<4])
    let reader = try fixture.reader(page: 20)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(20..<21))
    try fixture.source.sendPages(20..<21, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(20))
  }

  /// A first seed never goes over something: the page is the source's again.
  @Test func aPageThatIsThereTakesNoFirstSeed() throws {
    let fixture = try fixture()
    try fixture.guest.plant(1, page: 3)
    try fixture.source.sendSeeds(0..<8, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    #expect(try fixture.guest.fileDataRuns() == [0..<3, 4..<8])
    #expect(fixture.count(of: .staged) == 7 && fixture.count(of: .missing) == 57)
    #expect(fixture.plane.statistics().lostSeedPageCount == 1)
  }

  /// COPY does nothing before the event is read, which it is not while seeds come.
  @Test func whatAnUnreadEventHoldsUpIsTheSourcesAgain() throws {
    let fixture = try fixture()
    let guest = fixture.guest
    let remover = try GuestThread { guest.remove(page: 40) }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 120_000_000_000)
    let isUnread = try Readiness.wait(
      for: [fixture.userfault.handle.rawValue], until: deadline)
    try #require(isUnread == [true])
    try fixture.source.sendSeeds(0..<8, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    _ = try fixture.event { if case .seedsHeldUp = $0 { true } else { false } }
    #expect(fixture.count(of: .missing) == 64)
    #expect(fixture.plane.statistics().lostSeedPageCount == 8)
    try fixture.startFaults()
    _ = try remover.value()
    let reader = try fixture.reader(page: 3)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(3..<4))
    try fixture.source.sendPages(3..<4, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(3))
  }

  /// It must not read as zeros: the source has it still.
  @Test func aSeedThatWasTakenOutIsTheSourcesAgain() throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<16, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.guest.punch(page: 0)
    try fixture.guest.punch(page: 7)
    try fixture.startFaults()
    #expect(fixture.count(of: .present) == 14 && fixture.count(of: .missing) == 50)
    let reader = try fixture.reader(page: 7)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(7..<8))
    try fixture.source.sendPages(7..<8, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(7))
  }

  @Test(.enabled(if: Machine.canLimitMemory, "needs the right to make a tmpfs"))
  func whatFindsNoMemoryStaysMissing() throws {
    let fixture = try fixture { $0.limitByteCount = 4 * 4096 }
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    #expect(fixture.count(of: .staged) == 4 && fixture.count(of: .missing) == 60)
    // What is there can be written over all the same.
    try fixture.source.sendSeeds(0..<4, on: fixture.source.bulk[0])
    try fixture.source.endRound(2)
    try fixture.startFaults()
    #expect(try fixture.guest.fileDataRuns() == [0..<4])
    for page in 0..<4 { #expect(fixture.guest.holds(PageContent.word(page), page: page)) }
  }

  // MARK: What may come

  @Test(arguments: [
    FrameType.pages, .zeroPages, .poisonedPages, .zeroMap, .pushFinished,
  ])
  func whileSeedsComeNothingElseDoes(type: FrameType) throws {
    let fixture = try fixture()
    let source = fixture.source
    try source.sendSeeds(0..<4, version: 1, on: source.bulk[0])
    switch type {
    case .pages: try source.sendPages(4..<5, on: source.bulk[0])
    case .zeroPages: try source.sendZeros(4..<5, on: source.bulk[0])
    case .poisonedPages: try source.sendPoison(4..<5, isDemanded: false, on: source.bulk[0])
    case .zeroMap: try source.sendZeroMap([ScriptedSource.run(4..<5)])
    default: try source.finishPush()
    }
    try expectMisplaced(type, .bulk, fixture)
    #expect(try fixture.guest.fileDataRuns() == [0..<4])
  }

  @Test(arguments: [FrameType.pages, .zeroPages, .poisonedPages])
  func norOnTheUrgentConnection(type: FrameType) throws {
    let fixture = try fixture()
    let source = fixture.source
    switch type {
    case .pages: try source.sendPages(4..<5, isDemanded: true, on: source.urgent)
    case .zeroPages: try source.sendZeros(4..<5, isDemanded: true, on: source.urgent)
    default: try source.sendPoison(4..<5, isDemanded: true, on: source.urgent)
    }
    try expectMisplaced(type, .urgent, fixture)
    #expect(fixture.count(of: .missing) == fixture.guest.pageCount)
  }

  private func expectMisplaced(
    _ type: FrameType, _ role: ConnectionRole, _ fixture: PlaneFixture
  ) throws {
    let event = try fixture.event { if case .protocolViolation = $0 { true } else { false } }
    guard case .protocolViolation(_, _, let violation) = event else { return }
    #expect(violation == .frame(.misplaced(type, from: .source, on: role)))
  }

  /// Whatever has brought a page there, it was no seed.
  @Test func aPageThatIsNoSeedsTakesNone() throws {
    let fixture = try fixture()
    let installer = fixture.plane.parts.installer
    installer.filling.withLock { $0.ledger.installed(4..<5) }
    let content = [UInt8](repeating: 1, count: 4096)
    let run = ScriptedSource.run(4..<5)
    let isStaged = try installer.stageSeeds(run, content.rawBytes)
    let isZero = try installer.seedZeros(run)
    var pages = 4..<5
    let isDiscarded = try installer.discardSeeds(&pages)
    #expect(!isStaged && !isZero && !isDiscarded)
    #expect(fixture.plane.state(ofPage: 4) == .present)
  }

  // MARK: After a death

  private static let opened = DestinationRecord.opened(
    session: SavedSessionFixture.id, epoch: SavedSessionFixture.base, mode: .hybrid)

  /// Its memory may hold what is stale: the VMM is ended, and nobody is answered or told to run.
  @Test func aProcessThatFindsSeedsLetsNoVMRunOnThem() throws {
    let vmm = try SleepingProcess()
    let fixture = try SavedSessionFixture(
      [Self.opened], seedsInPlace: true, stagedPages: 2..<5, vmm: vmm)
    let guest = fixture.guest
    let reader = try GuestThread { guest.word(page: 3) }
    let descriptor = guest.userfault.rawValue
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 120_000_000_000)
    while try UserfaultStatus(ofDescriptor: descriptor).unreadFaultCount < 1 {
      try #require(MonotonicClock.now() < deadline, "it waits")
      _ = sched_yield()
    }
    let frontEnd = ScriptedFrontEnd(.incoming)
    let session = try fixture.recover(frontEnd, keeping: true)
    #expect(session.core.state == .killing)
    session.startRecovered()
    let hasEnded = vmm.handle.waitUntilEnded(deadline: deadline)
    #expect(hasEnded)
    #expect(vmm.endingSignal() == SIGKILL)
    for worker in [session.killWorker, session.vmmWorker] { worker.stop() }
    session.plane?.stop()
    #expect(frontEnd.runCount == 0)
    #expect(try UserfaultStatus(ofDescriptor: descriptor).unreadFaultCount == 1)
    try guest.userfault.unregister(guest.range)
    _ = try reader.value()
  }

  @Test func seedsBehindPreparedAreAContradiction() throws {
    let records = [Self.opened, SavedSessionFixture.prepared]
    let fixture = try SavedSessionFixture(records, seedsInPlace: true, stagedPages: 2..<5)
    let refusal = #expect(throws: Refusal.self) { try fixture.recover(ScriptedFrontEnd(.paused)) }
    #expect(refusal?.code == .session)
    #expect(refusal?.reason.contains("may be stale") == true, "\(String(describing: refusal))")
    // Of a stage nothing is left in the memory, and what is settled is good.
    for seedsInPlace in [false, true] {
      let fixture = try SavedSessionFixture(
        records, seedsInPlace: seedsInPlace, stagedPages: seedsInPlace ? 0..<0 : 2..<5)
      let session = try fixture.recover(ScriptedFrontEnd(.paused))
      session.startRecovered()
      #expect(session.core.state == .prepared)
      _ = try session.parkNow()
    }
  }

  /// What is settled is known as such to whoever comes later; what is not, as perhaps stale.
  @Test func thePageStatesTellWhatMayBeStale() throws {
    let fixture = try fixture()
    let states = { (0..<64).map { fixture.plane.state(ofPage: $0) } }
    try fixture.source.sendSeeds(0..<16, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    #expect(states().map { $0 == .staged } == (0..<64).map { $0 < 16 })
    try discard([8..<16], fixture)
    #expect(states() == (0..<64).map { $0 < 8 ? PageState.present : .missing })
  }
}
