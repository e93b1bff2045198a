import Codec
import Migration
import Pages
import Session
import System
import Testing
import Uring
import Wire

@testable import PageServer

@Suite(.serialized, .timeLimit(.minutes(5))) struct LateHelloTests {
  private func hello(_ session: SessionID) -> Hello {
    Hello(
      role: .urgent, session: session, epoch: Epoch(rawValue: 0), progress: .unknown,
      token: ExportFixture.token(1), vmName: "late",
      regions: [
        Region(
          index: RegionIndex(0), imageOffset: ByteCount(0), byteCount: ByteCount(8192),
          pageSize: .small)
      ])
  }

  @Test func anAbandonedDialDoesNotEndTheLinkThatWasMadeSince() throws {
    let place = try SessionPlace()
    let running = try RunningSession(try place.configuration("late"))
    let order = try running.orderAddress()
    let endpoint = place.endpoint("late")
    let link = try Connection.dial(endpoint, purpose: .urgent, until: soon())
    let welcome = try Handshake.introduce(hello(.none), on: link)
    // Its sender has given it up before it was heard.
    let late = try Connection.dial(endpoint, purpose: .urgent, until: soon())
    try late.send(hello(welcome.session).encodedFrame().rawBytes)
    late.endSending()
    let refusal = try #require(running.refusals.receive(until: soon()))
    #expect(refusal.reason == "it left before it was answered")
    // The link lives: it is answered on.
    try link.send(
      ControlMessage.ping(sequence: 77).encodedFrame(session: welcome.session.shortID).rawBytes)
    try awaitPong(77, on: link, welcome)
    // One that is there to be answered supersedes it, as before.
    let returned = try Connection.dial(endpoint, purpose: .urgent, until: soon())
    #expect(try Handshake.introduce(hello(welcome.session), on: returned) == welcome)
    #expect(throws: (any Error).self) { try awaitPong(78, on: link, welcome) }
    returned.shutdown()
    _ = order(OrderRequest(.abort) { Issue.record("answered: \($0)") })
    _ = try running.end()
  }

  /// The session's thread may find the news of a link's end and the client that has come again
  /// because of it at the same time: what is told is why the link ended.
  @Test func whyALinkHasEndedIsToldThoughItsClientIsBackAlready() throws {
    let place = try SessionPlace()
    let endpoint = place.endpoint("late")
    let notes = Lock<[SourceNote]>([])
    let session = try SourceSession(try place.configuration("late")) { note in
      notes.withLock { $0.append(note) }
    }
    session.core.start(now: MonotonicClock.now(), into: &session.effects)
    session.carryOut()
    session.drain()
    func admitNext() throws {
      guard case .arrival(let arrival)? = session.inputs.receive(until: soon()) else {
        Issue.record("nobody has come")
        return
      }
      session.admit(arrival)
    }
    let first = try Connection.dial(endpoint, purpose: .urgent, until: soon())
    try first.send(hello(.none).encodedFrame().rawBytes)
    try admitNext()
    let plane = try #require(session.plane)
    first.shutdown()
    _ = try Readiness.wait(for: [plane.events.readiness.rawValue], until: soon())
    let second = try Connection.dial(endpoint, purpose: .urgent, until: soon())
    try second.send(hello(session.core.session).encodedFrame().rawBytes)
    try admitNext()
    let reasons = notes.withLock { notes in
      notes.compactMap { if case .left(let reason) = $0 { reason.reason } else { nil } }
    }
    #expect(reasons.count == 1)
    #expect(reasons.first?.contains("closed the connection") == true, "\(reasons)")
    #expect(session.plane != nil && session.plane !== plane)
    session.handle(SourceEvent.operatorAbort)
    second.shutdown()
    session.doorkeeper?.stop()
    session.plane?.stop()
    session.seedWorker.stop()
    session.vmmWorker.stop()
  }

  private func awaitPong(
    _ sequence: UInt64, on link: Connection, _ welcome: Welcome
  ) throws {
    while true {
      let head = try link.receiveAll(WireLimits.headerByteCount, until: soon())
      let header = try FrameHeader(decoding: head.rawBytes)
      let payload = try link.receiveAll(header.payloadByteCount, until: soon())
      let message = try ControlMessage(decoding: payload.rawBytes, of: header.type)
      if message == .pong(sequence: sequence) { return }
    }
  }
}
