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
struct LinkTests {
  @Test func controlMessagesGoBothWays() throws {
    let fixture = try PlaneFixture()
    let epoch = Epoch(rawValue: 4)
    #expect(fixture.plane.send(.ready(epoch: epoch)))
    let (header, payload) = try fixture.source.next(on: fixture.source.urgent)
    #expect(header.type == .ready)
    #expect(try ControlMessage(decoding: payload.rawBytes, of: .ready) == .ready(epoch: epoch))
    try fixture.source.send(.frozen(epoch: epoch, discardPageCount: .zero))
    guard case .control(let message) = try fixture.event(where: { _ in true }) else {
      Issue.record("something else came first")
      return
    }
    #expect(message == .frozen(epoch: epoch, discardPageCount: .zero))
  }

  @Test func theSourcesEndIsTold() throws {
    let fixture = try PlaneFixture(.init(bulkCount: 2))
    fixture.source.urgent.shutdown()
    #expect(try linkLost(fixture) == .init(role: .urgent, position: 0, kind: .closedByPeer))
    // The first credit is out, so that it is the receive that meets the end.
    _ = try fixture.source.next(on: fixture.source.bulk[1])
    fixture.source.bulk[1].shutdown()
    #expect(try linkLost(fixture) == .init(role: .bulk, position: 1, kind: .closedByPeer))
    fixture.stop()
    // A thread that waits is cut short; one that was not there yet has nothing to tell.
    while let event = fixture.plane.events.take() {
      guard case .linkLost(let role, let position, let error) = event else { continue }
      #expect(
        Loss(role: role, position: position, kind: error.kind)
          == .init(role: .bulk, position: 0, kind: .shutDownHere))
    }
  }

  @Test func afterTheLinkIsLostRemovalsAndZerosGoOn() throws {
    let fixture = try PlaneFixture()
    let guest = fixture.guest
    try fixture.source.sendZeroMap([ScriptedSource.run(0..<4)])
    try awaitState(.zero, page: 3, fixture)
    fixture.source.urgent.shutdown()
    _ = try linkLost(fixture)
    let waiter = try fixture.reader(page: 20)
    #expect(
      try GuestThread {
        guest.remove(page: 10)
        return guest.word(page: 10) | guest.word(page: 2)
      }.value() == 0)
    // What only the source has stays awaited, and is never made up.
    while fixture.plane.state(ofPage: 20) == .missing { _ = fixture.plane.statistics() }
    #expect(fixture.plane.state(ofPage: 20) == .requested)
    fixture.stop()
    #expect(fixture.plane.state(ofPage: 20) == .requested)
    #expect(try fixture.userfault.status().waitingFaultCount == 1)
    try guest.plant(7, page: 20)
    #expect(try waiter.value() == 7)
  }

  @Test func theEndInsideAFrameIsALossAndInstallsNothing() throws {
    let fixture = try PlaneFixture()
    let reader = try fixture.reader(page: 1)
    _ = try fixture.source.nextRequest()
    let content = PageContent.bytes(PageContent.word(1), .small)
    var bytes: [UInt8] = []
    FrameHeader.pages(
      ScriptedSource.run(1..<2), pageSize: .small, isDemanded: true,
      session: fixture.source.shortID, sequence: 1,
      checksum: CRC32C.checksum(of: content.rawBytes)
    ).appendEncoded(to: &bytes)
    bytes += content[..<4095]
    try fixture.source.urgent.send(bytes.rawBytes)
    fixture.source.urgent.shutdown()
    #expect(try linkLost(fixture).role == .urgent)
    #expect(fixture.count(of: .requested) == 1)
    fixture.stop()
    try fixture.guest.plant(9, page: 1)
    #expect(try reader.value() == 9)
  }

  @Test func garbageOnUrgentEndsTheLink() throws {
    let fixture = try PlaneFixture()
    try fixture.source.urgent.send(
      Array("GET / HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n".utf8).rawBytes)
    let found = try violation(fixture)
    guard case .frame(.headerChecksum) = found else {
      Issue.record("the header's checksum is the first thing wrong")
      return
    }
    fixture.plane.dropLink(telling: found.told)
    #expect(throws: ConnectionError.self) { try drain(fixture.source.urgent, fixture) }
  }

  @Test func aWrongChecksumInstallsNothing() throws {
    let fixture = try PlaneFixture()
    let content = PageContent.bytes(5, .small)
    let header = FrameHeader.pages(
      ScriptedSource.run(1..<2), pageSize: .small, isDemanded: false,
      session: fixture.source.shortID, sequence: 1, checksum: 12345)
    try fixture.source.send(header, content, on: fixture.source.bulk[0])
    guard case .frame(.payloadChecksum) = try violation(fixture) else {
      Issue.record("the payload's checksum is wrong")
      return
    }
    #expect(fixture.count(of: .missing) == 64)
  }

  @Test(arguments: [60..<66, 64..<65]) func pagesOutsideTheImageAreRefused(
    _ pages: Range<Int>
  ) throws {
    for isUrgent in [true, false] {
      let fixture = try PlaneFixture()
      try fixture.source.sendPages(
        pages, on: isUrgent ? fixture.source.urgent : fixture.source.bulk[0])
      guard case .frame(.unknownPages) = try violation(fixture) else {
        Issue.record("no such pages")
        return
      }
      #expect(fixture.count(of: .missing) == 64)
    }
  }

  @Test func aZeroMapOutsideTheImageIsRefused() throws {
    let fixture = try PlaneFixture()
    try fixture.source.sendZeroMap([ScriptedSource.run(0..<2), ScriptedSource.run(60..<65)])
    guard case .frame(.unknownPages(.zeroMap, _)) = try violation(fixture) else {
      Issue.record("no such pages")
      return
    }
  }

  @Test func anotherSessionsFrameIsRefused() throws {
    let fixture = try PlaneFixture()
    try fixture.source.urgent.send(
      ControlMessage.ping(sequence: 1).encodedFrame(session: 5).rawBytes)
    guard case .frame(.foreignSession(found: 5, _)) = try violation(fixture) else {
      Issue.record("the session is another one")
      return
    }
  }

  @Test func framesOfTheOtherSideAreRefused() throws {
    let fixture = try PlaneFixture()
    try fixture.source.send(
      .request(ScriptedSource.run(0..<1), session: fixture.source.shortID, sequence: 1),
      on: fixture.source.urgent)
    guard case .frame(.misplaced(.request, _, _)) = try violation(fixture) else {
      Issue.record("a source requests nothing")
      return
    }
  }

  @Test(arguments: [true, false]) func aRefusalBringsItsReason(_ isUrgent: Bool) throws {
    let fixture = try PlaneFixture()
    let refusal = Refusal(.protocolViolation, "the disk is full")
    let connection = isUrgent ? fixture.source.urgent : fixture.source.bulk[0]
    try connection.send(refusal.encodedFrame(session: fixture.source.shortID).rawBytes)
    let found = try violation(fixture)
    #expect(found == .refused(refusal))
    #expect(found.description == "the source gave the session up: the disk is full")
  }

  /// The last word is said at any moment of the thread that sends the first one.
  @Test func theLastWordsComeBeforeTheEndOfBulk() throws {
    for round in 0..<200 {
      let fixture = try PlaneFixture()
      let source = fixture.source
      let listener = try GuestThread {
        while (try? source.next(on: source.bulk[0])) != nil {}
        // What is not here by now came too late.
        var byteCount: Int32 = 0
        // unsafe: the answer is an int, and the local variable lives during the call.
        _ = unsafe ioctl(source.urgent.rawDescriptor, UInt(FIONREAD), &byteCount)
        return Int(byteCount)
      }
      let words = [UInt64(1), 2].map { ControlMessage.discarded(epoch: Epoch(rawValue: $0)) }
      #expect(fixture.plane.send(words[0]))
      let end = MonotonicClock.now().advanced(byNanoseconds: UInt64(round % 100) * 500)
      while MonotonicClock.now() < end {}
      #expect(fixture.plane.send(words[1]))
      fixture.stop()
      let expected = words.reduce(0) { $0 + $1.encodedFrame(session: source.shortID).count }
      #expect(try listener.value() == expected, "round \(round)")
    }
  }

  @Test func aFloodOfControlMessagesIsBounded() throws {
    let fixture = try PlaneFixture()
    for sequence in 0...UInt64(DataPlaneEvents.maximumControlMessageCount) {
      try fixture.source.send(.go(epoch: Epoch(rawValue: sequence)))
    }
    // No event is taken before the plane has said that it listens no more.
    let limit = MonotonicClock.now().advanced(byNanoseconds: 30_000_000_000)
    while !fixture.plane.events.hasSaid(.link(1, .urgent, 0)), MonotonicClock.now() < limit {
      sched_yield()
    }
    guard case .tooManyControlMessages = try violation(fixture) else {
      Issue.record("nobody takes the messages")
      return
    }
  }

  @Test func aPeerThatReadsNothingLosesNoRequest() throws {
    // More requests than outbox and socket hold together: they wait, and go out in the end.
    let fixture = try PlaneFixture(.init(pageCounts: [16_384]))
    try fixture.source.finishPush()
    let guest = fixture.guest
    for sequence in 0..<64 { #expect(fixture.plane.send(.ping(sequence: UInt64(sequence)))) }
    let reader = try GuestThread { guest.word(page: 16_383) }
    let server = try fixture.source.serveRequests()
    #expect(try reader.value() == PageContent.word(16_383))
    try fixture.awaitAllResident()
    try fixture.finish()
    fixture.source.urgent.shutdown()
    #expect(try server.value() >= 16_384)
  }

  // MARK: What the tests look for

  struct Loss: Equatable {
    var role: ConnectionRole
    var position: Int
    var kind: ConnectionError.Kind
  }

  private func linkLost(_ fixture: PlaneFixture) throws -> Loss {
    let event = try fixture.event { if case .linkLost = $0 { true } else { false } }
    guard case .linkLost(let role, let position, let error) = event else {
      preconditionFailure("the event was filtered")
    }
    return Loss(role: role, position: position, kind: error.kind)
  }

  private func violation(_ fixture: PlaneFixture) throws -> ProtocolViolation {
    let event = try fixture.event { if case .protocolViolation = $0 { true } else { false } }
    guard case .protocolViolation(_, _, let violation) = event else {
      preconditionFailure("the event was filtered")
    }
    return violation
  }

  private func drain(_ connection: Connection, _ fixture: PlaneFixture) throws {
    while true { _ = try fixture.source.next(on: connection) }
  }
}
