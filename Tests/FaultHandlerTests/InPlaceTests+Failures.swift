import Glibc
import Migration
import Pages
import System
import Testing
import UFFD
import Wire

@testable import FaultHandler

// What ends the migration: what may be stale stays in the memory, and nobody is shown it.
extension InPlaceTests {
  /// It is no data to lseek(2), and a fault would not be raised for it.
  @Test func aPageThatWasAllocatedAndNeverWrittenEndsTheMigration() throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<16, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.guest.allocate(page: 30)
    #expect(try fixture.guest.fileDataRuns() == [0..<16])
    try fixture.plane.startFaults()
    #expect(try awaitStale(fixture) == .exists)
    #expect(fixture.plane.parts.installer.isSeeding)
  }

  /// Also in the middle of a page, where data ends that is no page's end.
  @Test(arguments: [4196, 8192])
  func aFileThatWasCutOffEndsTheMigration(byteCount: Int) throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<16, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try #require(ftruncate(fixture.guest.fileNumber, byteCount) == 0)
    try fixture.plane.startFaults()
    #expect(try awaitStale(fixture) == .invalidArgument)
    #expect(fixture.plane.parts.installer.isSeeding)
  }

  /// The session has to fail, and nobody is shown the page.
  @Test(arguments: [true, false])
  func aStalePageThatCannotBeTakenOutIsShownToNobody(isDiscarded: Bool) throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    if !isDiscarded { try fixture.guest.plant(1, page: 20) }
    try fixture.guest.seal()
    if isDiscarded {
      try fixture.source.sendDiscards([ScriptedSource.run(3..<5)], isLast: false)
    } else {
      try fixture.plane.startFaults()
    }
    #expect(try awaitStale(fixture) == .notPermitted)
    if !isDiscarded {
      #expect(fixture.plane.parts.installer.isSeeding)
      #expect(fixture.count(of: .requested) == 0 && !fixture.plane.isComplete)
    }
  }

  /// What comes behind the failure settles nothing: the last discard is not told as done, and the
  /// session that answers faults all the same has nobody answered.
  @Test func nothingIsSettledBehindAFailedTakeOut() throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<16, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    try fixture.guest.seal()
    try fixture.source.sendDiscards([ScriptedSource.run(3..<5), ScriptedSource.run(8..<9)])
    #expect(try awaitStale(fixture) == .notPermitted)
    let reader = try fixture.reader(page: 20)
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 120_000_000_000)
    let descriptor = fixture.userfault.handle.rawValue
    while try UserfaultStatus(ofDescriptor: descriptor).unreadFaultCount < 1 {
      try #require(MonotonicClock.now() < deadline, "it waits")
      _ = sched_yield()
    }
    try fixture.startFaults()
    #expect(fixture.plane.parts.installer.isSeeding && !fixture.plane.isComplete)
    #expect(fixture.count(of: .staged) == 16 && fixture.count(of: .present) == 0)
    // All threads have ended behind it: whatever they had to say was said.
    fixture.stop()
    while let event = fixture.plane.events.take() {
      if case .discarded = event { Issue.record("the discards were told as done") }
      if case .protocolViolation = event { Issue.record("the source did nothing wrong") }
    }
    #expect(try UserfaultStatus(ofDescriptor: descriptor).unreadFaultCount == 1)
    try fixture.userfault.handle.unregister(fixture.guest.range)
    _ = try reader.value()
  }

  /// They are told before the memory is changed, and until it is seen to be gone again.
  @Test(arguments: [false, true])
  func thePageStatesTellItInTheMiddle(isDiscarded: Bool) throws {
    let fixture = try fixture()
    try fixture.source.sendSeeds(0..<4, version: 1, on: fixture.source.bulk[0])
    try fixture.source.endRound(1)
    // Neither can be taken out again.
    if !isDiscarded { try fixture.guest.plant(1, page: 20) }
    try fixture.guest.seal()
    if isDiscarded {
      try fixture.source.sendDiscards([ScriptedSource.run(1..<3)], isLast: false)
    } else {
      try fixture.source.sendSeeds(18..<24, version: 1, on: fixture.source.bulk[0])
    }
    #expect(try awaitStale(fixture) == .notPermitted)
    let mayBeStale = (0..<64).filter { fixture.plane.state(ofPage: $0) == .staged }
    #expect(mayBeStale == (isDiscarded ? Array(0..<4) : Array(0..<4) + Array(18..<24)))
  }
}
