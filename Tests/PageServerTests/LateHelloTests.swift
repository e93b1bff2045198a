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

  /// A session whose inputs the test hands to it, one by one.
  private final class SteppedSession {
    let session: SourceSession
    let endpoint: Endpoint
    private let place: SessionPlace
    private let notes = Lock<[SourceNote]>([])

    init(_ place: SessionPlace) throws {
      self.place = place
      let notes = notes
      endpoint = place.endpoint("late")
      session = try SourceSession(try place.configuration("late")) { note in
        notes.withLock { $0.append(note) }
      }
      session.core.start(now: MonotonicClock.now(), into: &session.effects)
      session.carryOut()
      session.drain()
    }

    deinit {
      session.handle(SourceEvent.operatorAbort)
      session.doorkeeper?.stop()
      session.plane?.stop()
      session.seedWorker.stop()
      session.vmmWorker.stop()
    }

    /// Dials and says hello.
    func dial(_ hello: Hello) throws -> Connection {
      let client = try Connection.dial(endpoint, purpose: .urgent, until: soon())
      try client.send(hello.encodedFrame().rawBytes)
      return client
    }

    /// Lets the session hear the next client, after `before`.
    func admitNext(before: () -> Void = {}) throws {
      guard case .arrival(let arrival)? = session.inputs.receive(until: soon()) else {
        Issue.record("nobody has come")
        return
      }
      before()
      session.admit(arrival)
    }

    var refusals: [String] {
      notes.withLock { notes in
        notes.compactMap { if case .refused(_, let reason) = $0 { reason.reason } else { nil } }
      }
    }

    var lossReasons: [String] {
      notes.withLock { notes in
        notes.compactMap { if case .left(let reason) = $0 { reason.reason } else { nil } }
      }
    }
  }

  @Test func anAbandonedDialDoesNotEndTheLinkThatWasMadeSince() throws {
    let stepped = try SteppedSession(try SessionPlace())
    let session = stepped.session
    let link = try stepped.dial(hello(.none))
    try stepped.admitNext()
    let plane = try #require(session.plane)
    // Its sender gives it up before it is heard.
    let late = try stepped.dial(hello(session.core.session))
    try stepped.admitNext { late.endSending() }
    #expect(stepped.refusals == ["it left before it was answered"])
    // The link lives: it is answered on.
    #expect(session.plane === plane && stepped.lossReasons.isEmpty)
    try link.send(
      ControlMessage.ping(sequence: 77).encodedFrame(session: session.core.session.shortID)
        .rawBytes)
    try awaitPong(77, on: link)
    // One that is there to be answered supersedes it, as before.
    let returned = try stepped.dial(hello(session.core.session))
    try stepped.admitNext()
    #expect(session.plane != nil && session.plane !== plane)
    #expect(throws: (any Error).self) { try awaitPong(78, on: link) }
    returned.shutdown()
  }

  /// The session's thread may find the news of a link's end and the client that has come again
  /// because of it at the same time: what is told is why the link ended.
  @Test func whyALinkHasEndedIsToldThoughItsClientIsBackAlready() throws {
    let stepped = try SteppedSession(try SessionPlace())
    let session = stepped.session
    let first = try stepped.dial(hello(.none))
    try stepped.admitNext()
    let plane = try #require(session.plane)
    first.shutdown()
    _ = try Readiness.wait(for: [plane.events.readiness.rawValue], until: soon())
    let second = try stepped.dial(hello(session.core.session))
    try stepped.admitNext()
    let reasons = stepped.lossReasons
    #expect(reasons.count == 1)
    #expect(reasons.first?.contains("closed the connection") == true, "\(reasons)")
    #expect(session.plane != nil && session.plane !== plane)
    second.shutdown()
  }

  private func awaitPong(_ sequence: UInt64, on link: Connection) throws {
    while true {
      let head = try link.receiveAll(WireLimits.headerByteCount, until: soon())
      let header = try FrameHeader(decoding: head.rawBytes)
      let payload = try link.receiveAll(header.payloadByteCount, until: soon())
      // The welcome.
      guard header.type.isControlMessage else { continue }
      let message = try ControlMessage(decoding: payload.rawBytes, of: header.type)
      if message == .pong(sequence: sequence) { return }
    }
  }
}
