import Codec
import Migration
import Pages
import System
import Testing
import UFFD
import Wire

@testable import FaultHandler

@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct PackedTests {
  private func violation(_ fixture: PlaneFixture) throws -> ProtocolViolation? {
    let event = try fixture.event { if case .protocolViolation = $0 { true } else { false } }
    guard case .protocolViolation(_, _, let violation) = event else { return nil }
    return violation
  }

  @Test(arguments: PageEncoding.allCases)
  func packedPagesAreInstalledAsTheyWere(encoding: PageEncoding) throws {
    let fixture = try PlaneFixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendPacked(0..<16, as: encoding, on: bulk)
    try fixture.source.sendPages(16..<32, on: bulk)
    try fixture.source.sendPacked(32..<33, as: encoding, on: bulk)
    try awaitState(.present, page: 32, fixture)
    for page in 0..<33 { #expect(fixture.guest.word(page: page) == PageContent.word(page)) }
    #expect(fixture.plane.statistics().pushedPageCount == 33)
  }

  /// What is here already stays, and what is missing beside it comes.
  @Test func aPackedRunFillsWhatIsMissingOfIt() throws {
    let fixture = try PlaneFixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendPages(3..<5, on: bulk)
    try awaitState(.present, page: 4, fixture)
    fixture.guest.store(42, page: 4)
    try fixture.source.sendPacked(0..<16, as: .lz4, on: bulk)
    try awaitState(.present, page: 15, fixture)
    for page in 0..<16 {
      #expect(fixture.guest.word(page: page) == (page == 4 ? 42 : PageContent.word(page)))
    }
  }

  /// Credit is given for pages, however few bytes brought them.
  @Test func creditCountsThePages() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [1024]))
    let source = fixture.source
    _ = try source.next(on: source.bulk[0])
    for start in stride(from: 0, to: 256, by: 16) {
      try source.sendPacked(start..<start + 16, as: .zstd, on: source.bulk[0])
    }
    let (second, grown) = try source.next(on: source.bulk[0])
    #expect(second.type == .credit)
    #expect(
      try Credit.total(in: grown.rawBytes).rawValue == BulkInstaller.windowByteCount + 1 << 20)
  }

  /// Nothing of such a frame reaches the guest.
  @Test(
    arguments: [
      // Another encoding than it was made by, one that nobody knows, a delta of pages that are no
      // seeds, a reserved byte, a wrong checksum of the pages, contents that end early.
      { $0[0] = 2 }, { $0[0] = 9 }, { $0[1] = 1 }, { $0[2] = 1 }, { $0[4] ^= 1 },
      { $0.removeLast() },
    ] as [@Sendable (inout [UInt8]) -> Void])
  func damageIsRefused(damage: @Sendable (inout [UInt8]) -> Void) throws {
    let fixture = try PlaneFixture()
    try fixture.source.sendPacked(
      0..<16, as: .lz4, on: fixture.source.bulk[0], damage: damage)
    guard case .frame? = try violation(fixture) else {
      Issue.record("the frame was taken for a good one")
      return
    }
    #expect(fixture.count(of: .present) == 0)
  }

  @Test func damageOfAZstdFrameIsRefused() throws {
    let fixture = try PlaneFixture()
    try fixture.source.sendPacked(0..<16, as: .zstd, on: fixture.source.bulk[0]) {
      $0[$0.count / 2] ^= 0x40
    }
    guard case .frame? = try violation(fixture) else {
      Issue.record("the frame was taken for a good one")
      return
    }
    #expect(fixture.count(of: .present) == 0)
  }

  @Test func damagedSeedsAreRefused() throws {
    let fixture = try SeedTests.fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendPacked(0..<16, as: .lz4, isSeed: true, on: bulk) { $0[4] ^= 1 }
    guard case .frame? = try violation(fixture) else {
      Issue.record("the frame was taken for a good one")
      return
    }
    #expect(fixture.count(of: .staged) == 0)
  }

  @Test(arguments: PageEncoding.allCases)
  func packedSeedsAreStagedAsTheyWere(encoding: PageEncoding) throws {
    let fixture = try SeedTests.fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendSeeds(0..<16, version: 1, on: bulk)
    try fixture.source.sendPacked(0..<16, as: encoding, isSeed: true, on: bulk)
    try fixture.source.endRound(1)
    #expect(fixture.plane.statistics().seededByteCount == 32 * 4096)
    try fixture.startFaults()
    for page in 0..<16 {
      #expect(try fixture.reader(page: page).value() == PageContent.word(page))
    }
  }

  @Test(arguments: PageEncoding.allCases)
  func deltasChangeWhatIsStaged(encoding: PageEncoding) throws {
    let fixture = try SeedTests.fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendSeeds(0..<16, version: 1, on: bulk)
    try fixture.source.sendSeeds(16..<32, version: 1, on: bulk)
    try fixture.source.sendPacked(4..<20, as: encoding, isSeed: true, since: 1, on: bulk)
    try fixture.source.endRound(1)
    try fixture.startFaults()
    for page in 0..<32 {
      let word = PageContent.word(page)
      #expect(
        try fixture.reader(page: page).value() == ((4..<20).contains(page) ? word : word &+ 1 << 8))
    }
  }

  /// It is against another page than the one that is here.
  @Test func aDeltaOfOtherSeedsIsRefused() throws {
    let fixture = try SeedTests.fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendSeeds(0..<16, version: 1, on: bulk)
    try fixture.source.sendPacked(0..<16, as: .lz4, isSeed: true, since: 2, on: bulk)
    guard case .frame? = try violation(fixture) else {
      Issue.record("the frame was taken for a good one")
      return
    }
  }

  /// This host had no memory for them, which the source does not know: they come when they are
  /// asked for.
  @Test func aDeltaOfSeedsThatAreNotHereLeavesThemMissing() throws {
    let fixture = try SeedTests.fixture()
    let bulk = fixture.source.bulk[0]
    try fixture.source.sendSeeds(0..<8, version: 1, on: bulk)
    try fixture.source.sendPacked(0..<16, as: .lz4, isSeed: true, since: 1, on: bulk)
    try fixture.source.endRound(1)
    #expect(fixture.count(of: .staged) == 0 && fixture.count(of: .missing) == 64)
  }
}
