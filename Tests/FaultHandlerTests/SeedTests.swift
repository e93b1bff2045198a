import Codec
import Migration
import Pages
import System
import Testing
import UFFD
import Uring
import Wire

@testable import FaultHandler

@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct SeedTests {
  static func fixture(_ shape: PlaneFixture.Shape = .init()) throws -> PlaneFixture {
    var shape = shape
    shape.takesSeeds = true
    return try PlaneFixture(shape, startsFaults: false)
  }

  private func violation(_ fixture: PlaneFixture) throws -> ProtocolViolation? {
    let event = try fixture.event { if case .protocolViolation = $0 { true } else { false } }
    guard case .protocolViolation(_, _, let violation) = event else { return nil }
    return violation
  }

  @Test(arguments: [false, true], [1, 3])
  func whatIsSeededIsInstalledOnlyWhenFaultsAreAnswered(isShared: Bool, bulkCount: Int) throws {
    let fixture = try Self.fixture(.init(isShared: isShared, bulkCount: bulkCount))
    for start in stride(from: 0, to: 64, by: 16) {
      try fixture.source.sendSeeds(
        start..<start + 16, on: fixture.source.bulk[start / 16 % bulkCount])
    }
    try fixture.source.endRound(1)
    #expect(fixture.count(of: .staged) == 64 && fixture.plane.statistics().copyCount == 0)
    #expect(!fixture.plane.isComplete)
    try fixture.startFaults()
    try fixture.awaitAllResident()
    for page in 0..<64 { #expect(fixture.guest.word(page: page) == PageContent.word(page)) }
    let statistics = fixture.plane.statistics()
    #expect(statistics.demandCount == 0 && statistics.stageInstalledPageCount == 64)
    #expect(statistics.seededPageCount == 64 && statistics.seededByteCount == 64 * 4096)
    try fixture.finish()
  }

  /// What is here and not installed keeps nobody from letting the VM run.
  @Test func whatIsStagedIsHereBeforeItIsResident() throws {
    let fixture = try Self.fixture()
    for start in stride(from: 0, to: 48, by: 16) {
      try fixture.source.sendSeeds(start..<start + 16, on: fixture.source.bulk[0])
    }
    try fixture.source.sendSeedZeros(48..<64, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.plane.startFaults()
    let first = try fixture.event { event in
      switch event {
      case .allHere, .allResident: true
      default: false
      }
    }
    guard case .allHere = first else {
      Issue.record("resident before it was here")
      return
    }
    // Whoever touches one is answered; all others wait until the VM runs.
    #expect(try fixture.reader(page: 7).value() == PageContent.word(7))
    #expect(fixture.count(of: .staged) == 47)
    fixture.plane.installSeeds()
    try fixture.awaitAllResident()
    try fixture.finish()
  }

  @Test func aPageThatIsAwaitedIsNotHere() throws {
    let fixture = try Self.fixture()
    for start in stride(from: 0, to: 64, by: 16) {
      try fixture.source.sendSeedZeros(start..<min(start + 16, 63), on: fixture.source.bulk[0])
    }
    try fixture.source.endRound(1)
    try fixture.startFaults()
    try fixture.source.sendPages(63..<64, on: fixture.source.bulk[0])
    try fixture.source.finishPush()
    // Nothing was staged: here and resident are one.
    let first = try fixture.event { event in
      switch event {
      case .allHere, .allResident: true
      default: false
      }
    }
    guard case .allResident = first else {
      Issue.record("here before it was sent")
      return
    }
    try fixture.finish()
  }

  @Test func aLaterSeedTakesTheEarlierOnesPlace() throws {
    let fixture = try Self.fixture()
    try fixture.source.sendSeeds(0..<8, version: 1, on: fixture.source.bulk[0])
    try fixture.source.sendSeedZeros(8..<12, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    #expect(fixture.count(of: .staged) == 8 && fixture.count(of: .missing) == 56)
    try fixture.source.sendSeeds(0..<4, on: fixture.source.bulk[0])
    try fixture.source.sendSeeds(8..<10, on: fixture.source.bulk[0])
    try fixture.source.sendSeedZeros(4..<8, on: fixture.source.bulk[0])
    try fixture.source.endRound(2)
    #expect(fixture.count(of: .staged) == 6)
    try fixture.startFaults()
    for page in 0..<12 {
      let isZero = (4..<8).contains(page) || page >= 10
      #expect(
        try fixture.reader(page: page).value() == (isZero ? 0 : PageContent.word(page)),
        "page \(page)")
    }
    #expect(fixture.plane.statistics().demandCount == 0)
  }

  /// P3: nothing of a stale seed is ever seen, and the push brings what was discarded.
  @Test func whatIsDiscardedIsTheSourcesAgain() throws {
    let fixture = try Self.fixture()
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.sendSeedZeros(16..<32, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.source.sendSeeds(0..<8, on: fixture.source.bulk[0])
    try fixture.source.endRound(2)
    try fixture.source.sendDiscards([ScriptedSource.run(8..<12)], isLast: false)
    try fixture.source.sendDiscards([ScriptedSource.run(12..<20), ScriptedSource.run(60..<64)])
    let told = try fixture.event { if case .discarded = $0 { true } else { false } }
    guard case .discarded(let count) = told else { return }
    #expect(count == PageCount(16))
    #expect(fixture.count(of: .staged) == 8 && fixture.count(of: .zero) == 12)
    #expect(fixture.count(of: .missing) == 44)
    try fixture.startFaults()
    let reader = try fixture.reader(page: 10)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(10..<11))
    try fixture.source.sendPages(8..<16, on: fixture.source.bulk[0])
    try fixture.source.sendPages(16..<20, on: fixture.source.bulk[0])
    try fixture.source.sendZeroMap([ScriptedSource.run(32..<64)])
    #expect(try reader.value() == PageContent.word(10))
    try fixture.awaitAllResident()
    for page in 0..<20 { #expect(fixture.guest.word(page: page) == PageContent.word(page)) }
    try fixture.finish()
  }

  /// What a round names as stale at its end may come again, and does not count for the freeze.
  @Test func whatARoundNamesAsStaleIsDroppedWithIt() throws {
    let fixture = try Self.fixture()
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.sendSeedZeros(16..<32, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.source.sendDiscards([ScriptedSource.run(4..<24)], isLast: false)
    try fixture.source.endRound(2)
    #expect(fixture.count(of: .staged) == 4 && fixture.count(of: .missing) == 60)
    try fixture.source.sendSeeds(4..<8, on: fixture.source.bulk[0])
    try fixture.source.endRound(3)
    try fixture.source.sendDiscards([ScriptedSource.run(0..<4)])
    let told = try fixture.event { if case .discarded = $0 { true } else { false } }
    guard case .discarded(let count) = told else { return }
    #expect(count == PageCount(4))
    #expect(fixture.count(of: .staged) == 4 && fixture.count(of: .zero) == 8)
    try fixture.startFaults()
    #expect(try fixture.reader(page: 5).value() == PageContent.word(5))
    let reader = try fixture.reader(page: 20)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(20..<21))
    try fixture.source.sendPages(20..<21, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(20))
  }

  @Test func theSearchForWhatIsMissingAsksForNothingThatIsStaged() throws {
    let fixture = try Self.fixture()
    for start in stride(from: 0, to: 48, by: 16) {
      try fixture.source.sendSeeds(start..<start + 16, on: fixture.source.bulk[0])
    }
    try fixture.source.endRound(1)
    try fixture.startFaults()
    try fixture.source.finishPush()
    var asked: Set<Int> = []
    while asked.count < 16 {
      let run = try fixture.source.nextRequest().run
      let first = Int(run.start.rawValue)
      asked.formUnion(first..<first + Int(run.count.rawValue))
    }
    #expect(asked == Set(48..<64))
  }

  @Test(.enabled(if: Machine.hasHugePages, "needs huge pages"))
  func hugePagesAreSeededWhole() throws {
    let fixture = try Self.fixture(.init(pageCounts: [2], pageSize: .huge))
    try fixture.source.sendSeeds(0..<1, size: .huge, on: fixture.source.bulk[0])
    try fixture.source.sendSeeds(1..<2, size: .huge, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.source.sendDiscards([ScriptedSource.run(1..<2)])
    _ = try fixture.event { if case .discarded = $0 { true } else { false } }
    try fixture.startFaults()
    #expect(try fixture.reader(page: 0).value() == PageContent.word(0))
    let reader = try fixture.reader(page: 1)
    _ = try fixture.source.nextRequest()
    try fixture.source.sendPages(1..<2, size: .huge, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(1))
    #expect(fixture.guest.holds(PageContent.word(0), page: 0))
  }

  @Test func aPageThatIsGivenBackIsNotFilledFromItsSeed() throws {
    let fixture = try Self.fixture(.init(pageCounts: [64, 16]))
    for start in stride(from: 0, to: 64, by: 16) {
      try fixture.source.sendSeeds(start..<start + 16, on: fixture.source.bulk[0])
    }
    try fixture.source.endRound(1)
    try fixture.startFaults()
    let guest = fixture.guest
    let remover = try GuestThread {
      for page in stride(from: 63, through: 1, by: -2) { guest.remove(page: page) }
      return true
    }
    #expect(try remover.value())
    for page in 0..<64 {
      let expected = page % 2 == 1 ? 0 : PageContent.word(page)
      #expect(try fixture.reader(page: page).value() == expected, "page \(page)")
    }
  }

  /// The stage is one link's work only by chance: what was seeded over an earlier one counts.
  @Test func seedsOutliveTheirLink() throws {
    let fixture = try Self.fixture()
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    fixture.plane.dropLink()
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    #expect(try next.residentPages(of: 64) == Set(0..<16))
    try next.sendSeeds(0..<8, on: next.bulk[0])
    try next.endRound(2)
    try next.sendDiscards([ScriptedSource.run(8..<16)])
    _ = try fixture.event { if case .discarded = $0 { true } else { false } }
    try fixture.startFaults()
    #expect(try fixture.reader(page: 7).value() == PageContent.word(7))
    let reader = try fixture.reader(page: 8)
    #expect(try next.nextRequest().run == ScriptedSource.run(8..<9))
    try next.sendPages(8..<16, on: next.bulk[0])
    #expect(try reader.value() == PageContent.word(8))
  }

  @Test func aSeedBehindTheDiscardsBreaksTheProtocol() throws {
    let fixture = try Self.fixture()
    try fixture.source.sendSeeds(0..<1, on: fixture.source.bulk[0])
    try fixture.source.sendDiscards([ScriptedSource.run(0..<1)])
    try fixture.source.sendSeeds(0..<1, on: fixture.source.bulk[0])
    #expect(
      try violation(fixture) == .frame(.misplaced(.seedPages, from: .source, on: .bulk)))
    #expect(fixture.count(of: .staged) == 0)
  }

  @Test func aSeedAfterTheFreezeBreaksTheProtocolThoughNothingWasStale() throws {
    let fixture = try Self.fixture()
    try fixture.startFaults()
    try fixture.source.sendSeedZeros(0..<1, on: fixture.source.bulk[0])
    #expect(
      try violation(fixture) == .frame(.misplaced(.seedZeros, from: .source, on: .bulk)))
  }

  @Test(arguments: [FrameType.seedPages, .seedZeros, .seedRound, .discardMap])
  func aModeWithoutRoundsTakesNoSeeds(type: FrameType) throws {
    let fixture = try PlaneFixture()
    let source = fixture.source
    switch type {
    case .seedPages: try source.sendSeeds(0..<1, on: source.bulk[0])
    case .seedZeros: try source.sendSeedZeros(0..<1, on: source.bulk[0])
    case .seedRound:
      try source.bulk[0].send(SeedRound.endFrame(1, session: source.shortID).rawBytes)
    default: try source.sendDiscards([ScriptedSource.run(0..<1)])
    }
    #expect(try violation(fixture) == .frame(.misplaced(type, from: .source, on: .bulk)))
  }
}
