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

@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct FaultPathTests {
  @Test func aDemandedPageIsAskedForAndInstalled() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 5)
    let request = try fixture.source.nextRequest()
    #expect(request.run == ScriptedSource.run(5..<6))
    #expect(request.session == ScriptedSource.session.shortID)
    try fixture.source.sendPages(5..<6, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == PageContent.word(5))
    #expect(fixture.guest.holds(PageContent.word(5), page: 5))
    let statistics = fixture.plane.statistics()
    #expect(statistics.demandCount == 1)
    #expect(statistics.demandedPageCount == 1)
    #expect(statistics.demandLatency.count == 1)
  }

  @Test func faultsStayParkedUntilTheyAreStarted() throws {
    let fixture = try PlaneFixture(startsFaults: false)
    let reader = try fixture.reader(page: 3)
    // A control message proves that the fault thread lives while the fault waits in the kernel.
    #expect(fixture.plane.send(.ping(sequence: 7)))
    let (ping, _) = try fixture.source.next(on: fixture.source.urgent)
    #expect(ping.type == .ping)
    #expect(fixture.plane.statistics().faultCount == 0)
    try fixture.plane.startFaults()
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(3..<4))
    try fixture.source.sendPages(3..<4, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == PageContent.word(3))
  }

  @Test func manyThreadsAtOnceAreAllServed() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [256]))
    let server = try fixture.source.serveRequests()
    let readers = try (0..<8).map { thread in
      let guest = fixture.guest
      return try GuestThread {
        (0..<256).filter { page in
          let page = (page * 7 + thread * 31) % 256
          return guest.word(page: page) != PageContent.word(page)
        }
      }
    }
    for reader in readers { #expect(try reader.value() == []) }
    try fixture.awaitAllResident()
    try fixture.finish()
    fixture.source.urgent.shutdown()
    // Duplicates are answered too, so at least one answer a page.
    #expect(try server.value() >= 256)
  }

  @Test func twoRegionsAreToldApart() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [4, 8]))
    let server = try fixture.source.serveRequests()
    #expect(try fixture.reader(page: 3, region: 0).value() == PageContent.word(3, region: 0))
    #expect(try fixture.reader(page: 3, region: 1).value() == PageContent.word(3, region: 1))
    #expect(try fixture.reader(page: 7, region: 1).value() == PageContent.word(7, region: 1))
    fixture.stop()
    fixture.source.urgent.shutdown()
    #expect(try server.value() == 3)
  }

  @Test func aDuplicateAnswerIsDropped() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 1)
    _ = try fixture.source.nextRequest()
    try fixture.source.sendPages(1..<2, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == PageContent.word(1))
    fixture.guest.store(42, page: 1)
    try fixture.source.sendPages(1..<2, isDemanded: true, on: fixture.source.urgent)
    try awaitFaultThread(fixture)
    #expect(fixture.guest.word(page: 1) == 42)
    #expect(fixture.plane.statistics().droppedPageCount == 1)
  }

  @Test func aPageThatIsThereAlreadyWakesItsWaiter() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 9)
    _ = try fixture.source.nextRequest()
    // COPY without a wake: what happens when another filler's wake got lost.
    let content = PageContent.bytes(77, .small)
    let address = fixture.guest.range.start.advanced(by: ByteCount(9 * 4096))
    #expect(
      try fixture.userfault.handle.copy(content.rawBytes, to: address, waking: false)
        == .complete)
    try fixture.source.sendPages(9..<10, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == 77)
    #expect(fixture.plane.statistics().foundPresentPageCount == 1)
    #expect(fixture.count(of: .present) == 1)
  }

  @Test func aRunGoesOnBehindAPageThatIsThere() throws {
    let fixture = try PlaneFixture()
    try fixture.guest.plant(77, page: 2)
    try fixture.source.sendPages(0..<8, on: fixture.source.bulk[0])
    for page in 0..<8 {
      let expected = page == 2 ? 77 : PageContent.word(page)
      try awaitState(.present, page: page, fixture)
      #expect(fixture.guest.holds(expected, page: page))
    }
    #expect(fixture.plane.statistics().foundPresentPageCount == 1)
  }

  @Test func aPunchedPageReadsAsZerosAndDoesNotLivelock() throws {
    let fixture = try PlaneFixture(.init(isShared: true))
    try fixture.source.sendPages(0..<1, on: fixture.source.bulk[0])
    try awaitState(.present, page: 0, fixture)
    #expect(fixture.guest.word(page: 0) == PageContent.word(0))
    try fixture.guest.punch(page: 0)
    #expect(try fixture.reader(page: 0).value() == 0)
  }

  @Test func zeroAnswersFillTheWaitersPage() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 4)
    _ = try fixture.source.nextRequest()
    try fixture.source.sendZeros(4..<5, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == 0)
    #expect(fixture.plane.statistics().zeroFilledPageCount == 1)
  }

  @Test func aFaultOutsideEveryRegionIsReportedWithItsAddress() throws {
    let fixture = try PlaneFixture()
    let stray = try GuestMemory(pageCount: 1, userfault: fixture.userfault.handle)
    let reader = try GuestThread { stray.word(page: 0) }
    let event = try fixture.event {
      if case .faultOutsideRegions = $0 { true } else { false }
    }
    guard case .faultOutsideRegions(let address) = event else {
      Issue.record("another event: \(event)")
      return
    }
    #expect(address == stray.range.start)
    // It waits until somebody gives it a page.
    try stray.plant(5, page: 0)
    #expect(try reader.value() == 5)
  }

  @Test func poisonedPagesArePoisonedHereToo() throws {
    let fixture = try PlaneFixture()
    guard try UserfaultDescriptor.offeredFeatures().contains(.poison) else { return }
    try fixture.source.sendPoison(6..<8, isDemanded: false, on: fixture.source.bulk[0])
    try awaitState(.poisoned, page: 7, fixture)
    #expect(fixture.count(of: .poisoned) == 2)
    // What is pushed later does not take the poison away: the kernel's COPY would.
    try fixture.source.sendPages(6..<9, on: fixture.source.bulk[0])
    try awaitState(.present, page: 8, fixture)
    #expect(fixture.count(of: .poisoned) == 2)
    #expect(fixture.plane.statistics().droppedPageCount == 2)
  }

  @Test func aFaultReadBehindThePoisonLeavesItPoisoned() throws {
    guard try UserfaultDescriptor.offeredFeatures().contains(.poison) else { return }
    let fixture = try PlaneFixture(startsFaults: false)
    let states = MappedPageStates(try MemoryMapping(anonymousByteCount: 64))
    let installer = PageInstaller(
      document: fixture.memory.document, kinds: fixture.memory.memoryKinds,
      userfault: fixture.userfault.handle, ledger: PageLedger(fresh: states))
    #expect(try installer.poisonArrived(6..<7).obstacle == nil)
    let progress = try installer.resolve(6)
    #expect(progress.remaining.isEmpty && progress.obstacle == nil)
    #expect(installer.state(ofPage: 6) == .poisoned)
    #expect(installer.statistics().foundPresentPageCount == 0)
  }

  @Test func touchingAPoisonedPageIsABusError() throws {
    guard try UserfaultDescriptor.offeredFeatures().contains(.poison) else { return }
    let fixture = try PlaneFixture()
    let guest = fixture.guest
    let toucher = try GuestThread { guest.busError(page: 6) }
    _ = try fixture.source.nextRequest()
    try fixture.source.sendPoison(6..<7, isDemanded: true, on: fixture.source.urgent)
    #expect(try toucher.value() != 0)
    #expect(fixture.count(of: .poisoned) == 1)
  }

  @Test func hugePagesAreServedAndZeroed() throws {
    guard Machine.hasHugePages else {
      try Test.cancel("needs eight free 2 MiB pages")
    }
    let fixture = try PlaneFixture(.init(pageCounts: [4], pageSize: .huge))
    let reader = try fixture.reader(page: 2)
    #expect(try fixture.source.nextRequest().run == ScriptedSource.run(2..<3))
    try fixture.source.sendPages(2..<3, size: .huge, isDemanded: true, on: fixture.source.urgent)
    #expect(try reader.value() == PageContent.word(2))
    #expect(fixture.guest.holds(PageContent.word(2), page: 2))
    let zeroReader = try fixture.reader(page: 1)
    _ = try fixture.source.nextRequest()
    try fixture.source.sendZeros(1..<2, isDemanded: true, on: fixture.source.urgent)
    #expect(try zeroReader.value() == 0)
    try fixture.source.sendPages(0..<1, size: .huge, on: fixture.source.bulk[0])
    try fixture.source.sendZeroMap([ScriptedSource.run(3..<4)])
    try fixture.awaitAllResident()
    #expect(try fixture.reader(page: 3).value() == 0)
    try fixture.finish()
    #expect(fixture.guest.word(page: 0) == PageContent.word(0))
  }
}

/// Waits until the plane has handled everything that was sent on the urgent connection before.
func awaitFaultThread(_ fixture: PlaneFixture) throws {
  try fixture.source.send(.completeAcknowledged(epoch: Epoch(rawValue: 99)))
  _ = try fixture.event { if case .control(.completeAcknowledged) = $0 { true } else { false } }
}

/// Waits until a page is in that state, which bulk brings: between two looks a message goes through
/// the fault thread.
func awaitState(_ state: PageState, page: Int, _ fixture: PlaneFixture) throws {
  while fixture.plane.state(ofPage: page) != state { try awaitFaultThread(fixture) }
}
