import Codec
import Foundation
import Glibc
import Migration
import Pages
import System
import Testing
import Uring
import Wire

@testable import FaultHandler

/// Links that are lost and made again while the fault thread goes on.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct RelinkTests {
  @Test func whatSomebodyWaitsForIsAskedForFirstOnTheNextLink() throws {
    let fixture = try PlaneFixture()
    let readers = try [20, 40].map { try fixture.reader(page: $0) }
    #expect(Set([try nextPage(fixture.source), try nextPage(fixture.source)]) == [20, 40])
    fixture.source.urgent.shutdown()
    _ = try fixture.event { if case .linkLost = $0 { true } else { false } }
    fixture.plane.dropLink()
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    // Nothing else comes before the two.
    var asked: Set<Int> = []
    for _ in 0..<2 {
      let (header, _) = try next.next(on: next.urgent)
      #expect(header.type == .request)
      asked.insert(Int(header.run.start.rawValue))
    }
    #expect(asked == [20, 40])
    try next.sendPages(20..<21, isDemanded: true, on: next.urgent)
    try next.sendPages(40..<41, isDemanded: true, on: next.urgent)
    #expect(try readers[0].value() == PageContent.word(20))
    #expect(try readers[1].value() == PageContent.word(40))
    fixture.stop()
  }

  @Test func theSourceHearsWhatIsHereAndWhatIsNot() throws {
    let fixture = try PlaneFixture()
    let guest = fixture.guest
    try fixture.source.sendPages(3..<7, on: fixture.source.bulk[0])
    try fixture.source.sendZeroMap([ScriptedSource.run(10..<20)])
    try awaitState(.present, page: 6, fixture)
    try awaitState(.zero, page: 19, fixture)
    _ = try GuestThread { guest.remove(page: 30) }.value()
    try awaitState(.removed, page: 30, fixture)
    fixture.plane.dropLink()
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 2, tellsResidency: true)
    #expect(try next.residentPages(of: 64) == Set(3..<7).union(10..<20).union([30]))
    fixture.stop()
  }

  @Test func aPageThatHadComeInHalfIsDropped() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 5)
    #expect(try nextPage(fixture.source) == 5)
    try fixture.source.sendHalfOfPage(5, on: fixture.source.urgent)
    try fixture.source.sendHalfOfPage(9, on: fixture.source.bulk[0])
    fixture.source.urgent.shutdown()
    fixture.source.bulk[0].shutdown()
    _ = try fixture.event { if case .linkLost = $0 { true } else { false } }
    fixture.plane.dropLink()
    #expect(fixture.plane.state(ofPage: 5) == .requested)
    #expect(fixture.plane.state(ofPage: 9) == .missing)
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    #expect(try nextPage(next) == 5)
    try next.sendPages(5..<6, isDemanded: true, on: next.urgent)
    #expect(try reader.value() == PageContent.word(5))
    fixture.stop()
  }

  @Test func aFillThatIsHeldUpHoldsNobodyWhoDropsItsLink() throws {
    // No other test has so many, so that the thread is known by its name.
    let fixture = try PlaneFixture(.init(bulkCount: 7))
    let installer = fixture.plane.parts.installer
    let isHeld = try WakeEvent()
    let release = try WakeEvent()
    // Plays a kernel, or an event, that keeps the fill waiting.
    let holder = try WorkerThread(name: "holder") {
      installer.filling.withLock { _ in
        isHeld.signal()
        _ = try? Readiness.wait(for: [release.rawValue])
      }
    }
    _ = try Readiness.wait(for: [isHeld.rawValue])
    try fixture.source.sendPages(9..<10, on: fixture.source.bulk[6])
    try awaitLockWait(ofThread: "postcopy-bulk6")
    // Would not return if it waited for the fill.
    fixture.plane.dropLink()
    let dropped = fixture.plane.droppedLinks
    #expect(dropped.links.count == 1)
    release.signal()
    dropped.awaitEnd()
    holder.join()
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    #expect(fixture.plane.droppedLinks.links.isEmpty)
    // What had come whole may be here; it counts as what the map says.
    let isHere = fixture.plane.state(ofPage: 9) == .present
    #expect(try next.residentPages(of: 64) == (isHere ? [9] : []))
    fixture.stop()
  }

  /// Waits until the thread waits for a lock, as the kernel tells of what it waits for.
  private func awaitLockWait(ofThread name: String) throws {
    let limit = MonotonicClock.now().advanced(byNanoseconds: 30_000_000_000)
    while MonotonicClock.now() < limit {
      for task in tasks(named: name) {
        if FileSystem.text(ofSmallFile: "\(task)/wchan")?.contains("futex") == true { return }
      }
      sched_yield()
    }
    Issue.record("the thread never waited for the lock")
  }

  /// Waits until each fault thread has been seen waiting for its ring. One that looks at a lost
  /// link again and again, with its real-time priority, never is.
  private func awaitIdleFaultThreads() throws {
    let limit = MonotonicClock.now().advanced(byNanoseconds: 30_000_000_000)
    var busy = tasks(named: "postcopy-fault")
    while !busy.isEmpty, MonotonicClock.now() < limit {
      busy.removeAll { task in
        FileSystem.text(ofSmallFile: "\(task)/wchan").map { $0.contains("cqring") } ?? true
      }
      sched_yield()
    }
    #expect(busy == [])
  }

  private func tasks(named name: String) -> [String] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
    return names.map { "/proc/self/task/\($0)" }.filter {
      FileSystem.text(ofSmallFile: "\($0)/comm")?.hasPrefix(name) == true
    }
  }

  @Test(arguments: [ConnectionRole.urgent, .bulk]) func aSourceThatBreaksTheProtocolIsToldSo(
    role: ConnectionRole
  ) throws {
    let fixture = try PlaneFixture()
    let bad = role == .urgent ? fixture.source.urgent : fixture.source.bulk[0]
    // A request is a word of the destination's.
    try fixture.source.send(
      .request(ScriptedSource.run(1..<2), session: fixture.source.shortID, sequence: 1), on: bad)
    let event = try fixture.event { if case .protocolViolation = $0 { true } else { false } }
    guard case .protocolViolation(role, _, let violation) = event else {
      Issue.record("another event: \(event)")
      return
    }
    fixture.plane.dropLink(telling: violation.told)
    #expect(try farewell(of: fixture.source) == violation.told)
    // Bulk ends as well, behind it.
    fixture.plane.droppedLinks.awaitEnd()
    #expect(throws: ConnectionError.self) {
      while true { _ = try fixture.source.next(on: fixture.source.bulk[0]) }
    }
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    #expect(try next.residentPages(of: 64) == [])
    fixture.stop()
  }

  @Test func aFarewellThatNobodyHearsHoldsNobodyUp() throws {
    let fixture = try PlaneFixture()
    fixture.source.urgent.shutdown()
    fixture.plane.dropLink(telling: Refusal(.session, "gone"))
    fixture.plane.droppedLinks.awaitEnd()
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    #expect(try next.residentPages(of: 64) == [])
    fixture.stop()
  }

  /// The refusal that comes before the end of the urgent connection.
  private func farewell(of source: ScriptedSource) throws -> Refusal {
    while true {
      let (header, payload) = try source.next(on: source.urgent)
      guard header.type == .refuse else { continue }
      #expect(throws: ConnectionError.self) { _ = try source.next(on: source.urgent) }
      return try Refusal(decoding: payload.rawBytes)
    }
  }

  @Test func wordsOfALostLinkAreNotHeardOnTheNext() throws {
    let fixture = try PlaneFixture()
    let old = Epoch(rawValue: 2)
    let new = Epoch(rawValue: 4)
    try fixture.source.send(.go(epoch: old))
    // What was said behind it has been read, so it has been said.
    let reader = try fixture.reader(page: 1)
    #expect(try nextPage(fixture.source) == 1)
    try fixture.source.sendPages(1..<2, isDemanded: true, on: fixture.source.urgent)
    _ = try reader.value()
    fixture.plane.dropLink()
    let next = try PlaneFixture.link(fixture.plane, bulkCount: 1, tellsResidency: true)
    try next.send(.go(epoch: new))
    guard case .control(let message) = try fixture.event(where: { _ in true }) else {
      Issue.record("something else came first")
      return
    }
    #expect(message == .go(epoch: new))
    fixture.stop()
  }

  @Test func theEndOfEachLinkIsTold() throws {
    let fixture = try PlaneFixture()
    var source = fixture.source
    for _ in 0..<3 {
      source.urgent.shutdown()
      _ = try fixture.event { if case .linkLost(.urgent, _, _) = $0 { true } else { false } }
      fixture.plane.dropLink()
      source = try PlaneFixture.link(fixture.plane, bulkCount: 2, tellsResidency: true)
    }
    try fixture.source.finishedBy(source, fixture)
  }

  @Test func aSourceThatSaysNothingIsGivenUp() throws {
    let fixture = try PlaneFixture(
      .init(heartbeatBudgetNanoseconds: LinkMonitor.minimumBudgetNanoseconds))
    let event = try fixture.event { if case .linkLost = $0 { true } else { false } }
    guard case .linkLost(.urgent, _, let error) = event else {
      Issue.record("another event: \(event)")
      return
    }
    #expect(error.kind == .silent)
    try awaitIdleFaultThreads()
    // It had been asked whether it lives.
    let (header, _) = try fixture.source.next(on: fixture.source.urgent)
    #expect(header.type == .ping)
    fixture.stop()
  }

  @Test func aHeartbeatIsAnsweredByTheFaultThread() throws {
    let fixture = try PlaneFixture()
    try fixture.source.send(.ping(sequence: 77))
    let (header, payload) = try fixture.source.next(on: fixture.source.urgent)
    #expect(try ControlMessage(decoding: payload.rawBytes, of: header.type) == .pong(sequence: 77))
    fixture.stop()
  }

  private func nextPage(_ source: ScriptedSource) throws -> Int {
    Int(try source.nextRequest().run.start.rawValue)
  }
}

extension ScriptedSource {
  /// The first half of a demanded page's frame.
  fileprivate func sendHalfOfPage(_ page: Int, on connection: Connection) throws {
    var bytes: [UInt8] = []
    FrameHeader.pages(
      Self.run(page..<page + 1), pageSize: .small, isDemanded: connection === urgent,
      session: shortID, sequence: 0, checksum: nil
    ).appendEncoded(to: &bytes)
    bytes += [UInt8](repeating: 7, count: 2048)
    try connection.send(bytes.rawBytes)
  }

  /// Serves the whole image on `last`, and ends.
  fileprivate func finishedBy(_ last: ScriptedSource, _ fixture: PlaneFixture) throws {
    try last.sendPages(0..<16, on: last.bulk[0])
    for start in [16, 32, 48] { try last.sendPages(start..<start + 16, on: last.bulk[1]) }
    try last.finishPush()
    try fixture.awaitAllResident()
    try fixture.finish()
  }
}
