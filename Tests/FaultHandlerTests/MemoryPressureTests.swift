import CUFFDTestSupport
import Codec
import Glibc
import Migration
import Pages
import System
import Testing
import UFFD
import Uring
import Wire

@testable import FaultHandler

/// A host without memory for a page: nothing may stand in for it.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.canLimitMemory, "needs userfaultfd and the right to make a tmpfs"))
struct MemoryPressureTests {
  @Test func aDemandedPageWaitsUntilThereIsMemory() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [8], limitByteCount: 2 * 4096))
    let guest = fixture.guest
    try fixture.source.sendPages(0..<2, on: fixture.source.bulk[0])
    try awaitState(.present, page: 1, fixture)
    let reader = try fixture.reader(page: 5)
    _ = try fixture.source.nextRequest()
    try fixture.source.sendPages(5..<6, isDemanded: true, on: fixture.source.urgent)
    let event = try fixture.event { if case .memoryPressure = $0 { true } else { false } }
    guard case .memoryPressure(let run) = event else {
      Issue.record("another event: \(event)")
      return
    }
    #expect(run == ScriptedSource.run(5..<6))
    #expect(fixture.plane.state(ofPage: 5) == .requested)
    // Room again: what is waited for is asked for once more.
    try guest.punch(page: 0)
    fixture.plane.retryAfterMemoryPressure()
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(5..<6))
    try fixture.source.sendPages(5..<6, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == PageContent.word(5))
  }

  @Test func aPushedPageIsKeptUntilThereIsMemory() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [8], limitByteCount: 2 * 4096))
    let guest = fixture.guest
    try fixture.source.sendPages(0..<4, on: fixture.source.bulk[0])
    _ = try fixture.event { if case .memoryPressure = $0 { true } else { false } }
    #expect(fixture.count(of: .present) == 2)
    #expect(fixture.count(of: .missing) == 6)
    try guest.punch(page: 0)
    try guest.punch(page: 1)
    try awaitState(.present, page: 3, fixture)
    #expect(guest.holds(PageContent.word(3), page: 3))
  }

  @Test func zerosThatDoNotFitWaitToo() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [8], limitByteCount: 4096))
    try fixture.source.sendPages(0..<1, on: fixture.source.bulk[0])
    try fixture.source.sendZeroMap([ScriptedSource.run(1..<8)])
    try awaitState(.zero, page: 7, fixture)
    let reader = try fixture.reader(page: 3)
    let event = try fixture.event { if case .memoryPressure = $0 { true } else { false } }
    guard case .memoryPressure(let run) = event else {
      Issue.record("another event: \(event)")
      return
    }
    #expect(run == ScriptedSource.run(3..<4))
    try fixture.guest.punch(page: 0)
    fixture.plane.retryAfterMemoryPressure()
    #expect(try reader.value() == 0)
  }
}
