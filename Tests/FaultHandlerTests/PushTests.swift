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
struct PushTests {
  @Test func aPushedPageNeverFaults() throws {
    let fixture = try PlaneFixture()
    try fixture.source.sendPages(0..<16, on: fixture.source.bulk[0])
    try awaitState(.present, page: 15, fixture)
    for page in 0..<16 { #expect(fixture.guest.word(page: page) == PageContent.word(page)) }
    let statistics = fixture.plane.statistics()
    #expect(statistics.faultCount == 0)
    #expect(statistics.pushedPageCount == 16)
    #expect(statistics.copyCount == 1)
  }

  @Test func aPushWakesWhoeverAskedForThePage() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 3)
    _ = try fixture.source.nextRequest()
    try fixture.source.sendPages(0..<8, on: fixture.source.bulk[0])
    #expect(try reader.value() == PageContent.word(3))
    // The answer comes all the same, and is dropped.
    try fixture.source.sendPages(3..<4, isDemanded: true, on: fixture.source.urgent)
    try awaitFaultThread(fixture)
    #expect(fixture.plane.statistics().droppedPageCount == 1)
    #expect(fixture.plane.statistics().demandLatency.count == 1)
  }

  @Test func mappedZerosAreInstalledOnlyWhenTouched() throws {
    let fixture = try PlaneFixture()
    try fixture.source.sendZeroMap([ScriptedSource.run(0..<32), ScriptedSource.run(40..<41)])
    try awaitState(.zero, page: 40, fixture)
    #expect(fixture.count(of: .zero) == 33)
    #expect(fixture.plane.statistics().zeroFilledPageCount == 0)
    #expect(try fixture.reader(page: 31).value() == 0)
    #expect(fixture.plane.statistics().zeroFilledPageCount == 1)
    #expect(fixture.plane.statistics().demandCount == 0)
  }

  @Test func aZeroMapFillsThePagesThatAreWaitedFor() throws {
    let fixture = try PlaneFixture()
    let readers = try [10, 20, 30].map { try fixture.reader(page: $0) }
    for _ in readers { _ = try fixture.source.nextRequest() }
    try fixture.source.sendZeroMap([ScriptedSource.run(0..<64)])
    for reader in readers { #expect(try reader.value() == 0) }
    try fixture.awaitAllResident()
  }

  @Test func zerosDoNotOverwriteWhatTheGuestWrote() throws {
    let fixture = try PlaneFixture()
    try fixture.source.sendPages(0..<1, on: fixture.source.bulk[0])
    try awaitState(.present, page: 0, fixture)
    fixture.guest.store(42, page: 0)
    try fixture.source.sendZeros(0..<2, on: fixture.source.bulk[0])
    try awaitState(.zero, page: 1, fixture)
    #expect(fixture.guest.word(page: 0) == 42)
  }

  @Test func creditGrowsWithWhatIsInstalled() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [1024]))
    let source = fixture.source
    let (first, payload) = try source.next(on: source.bulk[0])
    #expect(first.type == .credit)
    #expect(try Credit.total(in: payload.rawBytes).rawValue == BulkInstaller.windowByteCount)
    // A quarter of the window installed: one more grant.
    for start in stride(from: 0, to: 256, by: 16) {
      try source.sendPages(start..<start + 16, on: source.bulk[0])
    }
    let (second, grown) = try source.next(on: source.bulk[0])
    #expect(second.type == .credit)
    #expect(
      try Credit.total(in: grown.rawBytes).rawValue == BulkInstaller.windowByteCount + 1 << 20)
  }

  @Test func deviceStateComesWhole() throws {
    let fixture = try PlaneFixture()
    let source = fixture.source
    let pieces: [[UInt8]] = [[UInt8](repeating: 1, count: 60_000), [2, 3], []]
    for (position, piece) in pieces.enumerated() {
      try source.send(
        .payload(
          .deviceState, isLast: position == 2, session: source.shortID, piece.rawBytes),
        piece, on: source.bulk[0])
    }
    let event = try fixture.event { if case .deviceState = $0 { true } else { false } }
    guard case .deviceState(let state) = event else {
      Issue.record("another event: \(event)")
      return
    }
    #expect(state == pieces[0] + pieces[1])
    try source.send(
      .payload(.deviceState, isLast: true, session: source.shortID, [1].rawBytes), [1],
      on: source.bulk[0])
    let violation = try fixture.event { if case .protocolViolation = $0 { true } else { false } }
    guard case .protocolViolation(.bulk, 0, .deviceStateRepeated) = violation else {
      Issue.record("another violation: \(violation)")
      return
    }
  }

  @Test func whatNoPushBroughtIsAskedForAtTheEnd() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [300, 20], bulkCount: 2))
    let source = fixture.source
    try source.sendPages(0..<10, on: source.bulk[0])
    try source.sendPages(5..<8, region: 1, on: source.bulk[1])
    let server = try source.serveRequests()
    try source.finishPush()
    try fixture.awaitAllResident()
    #expect(fixture.plane.statistics().sweptPageCount == 307)
    for page in 0..<300 { #expect(fixture.regions[0].word(page: page) == PageContent.word(page)) }
    for page in 0..<20 {
      #expect(fixture.regions[1].word(page: page) == PageContent.word(page, region: 1))
    }
    try fixture.finish()
    source.urgent.shutdown()
    #expect(try server.value() == 307)
  }

  @Test func nothingIsSweptBeforeEveryConnectionIsDone() throws {
    let fixture = try PlaneFixture(.init(bulkCount: 2))
    let source = fixture.source
    try source.send(.pushFinished(session: source.shortID), on: source.bulk[0])
    try source.send(.pushFinished(session: source.shortID), on: source.bulk[0])
    try source.sendPages(0..<1, on: source.bulk[0])
    try awaitState(.present, page: 0, fixture)
    #expect(fixture.plane.statistics().sweptPageCount == 0)
    try source.send(.pushFinished(session: source.shortID), on: source.bulk[1])
    #expect(try source.nextRequest().run == ScriptedSource.run(1..<17))
  }

  @Test func finishingLeavesZerosWhereNothingWasAndRefusesBefore() throws {
    let fixture = try PlaneFixture()
    #expect(throws: DataPlaneError.notComplete(awaitedPageCount: 64)) {
      try fixture.plane.unregister()
    }
    try fixture.source.sendPages(0..<16, on: fixture.source.bulk[0])
    try fixture.source.sendZeroMap([ScriptedSource.run(16..<64)])
    try fixture.awaitAllResident()
    try fixture.finish()
    #expect(fixture.guest.holds(PageContent.word(3), page: 3))
    #expect(fixture.guest.holds(0, page: 40))
    #expect(try fixture.userfault.status().waitingFaultCount == 0)
  }
}
