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
