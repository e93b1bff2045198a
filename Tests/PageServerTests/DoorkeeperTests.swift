import Codec
import Pages
import System
import Testing
import Uring
import Wire

@testable import PageServer

/// The door where TLS is spoken: strangers cost it nothing, and everybody is told.
@Suite(.timeLimit(.minutes(5))) struct DoorkeeperTests {
  private func security() throws -> TLSContext {
    let authority = try CertificateMaker.makeAuthority(named: "authority", .days(1))
    let host = try CertificateMaker.makeHost(names: ["door"], .days(1), signedBy: authority)
    return try TLSContext(
      authority: authority.certificate, certificate: host.certificate, key: host.key)
  }

  /// A door, who came in and who was sent away.
  private struct Door {
    let listener: Listener
    let arrivals: Mailbox<Arrival>
    let strangers: Mailbox<StrangerError>
    let doorkeeper: Doorkeeper

    static func open(_ tls: TLSContext?) throws -> Door {
      let endpoint = try Endpoint(parsing: "127.0.0.1:0")
      let listener = try Listener(endpoint, tls: tls)
      let arrivals = try Mailbox<Arrival>(capacity: 64)
      let strangers = try Mailbox<StrangerError>(capacity: 64)
      let doorkeeper = try Doorkeeper(
        listener, arrived: { arrival in _ = arrivals.post(arrival) },
        stranger: { _, error in _ = strangers.post(error) })
      return Door(
        listener: listener, arrivals: arrivals, strangers: strangers, doorkeeper: doorkeeper)
    }

    func dial(_ tls: TLSContext?) throws -> Connection {
      try Connection.dial(listener.endpoint, purpose: .urgent, tls: tls, until: soon())
    }
  }

  private func hello() throws -> [UInt8] {
    let token = try #require(SessionToken(bytes: [UInt8](repeating: 7, count: 32)))
    let region = Region(
      index: RegionIndex(0), imageOffset: ByteCount(rawValue: 0),
      byteCount: ByteCount(rawValue: 4096), pageSize: .small)
    let hello = Hello(
      role: .urgent, session: .none, epoch: Epoch(rawValue: 0), progress: .unknown, token: token,
      vmName: "door", regions: [region])
    return hello.encodedFrame()
  }

  /// The refusal that comes as the only frame.
  private func refusal(on connection: Connection) throws -> Refusal {
    let head = try connection.receiveAll(WireLimits.headerByteCount)
    let header = try FrameHeader(decoding: head.rawBytes)
    #expect(header.type == .refuse)
    let payload = try connection.receiveAll(header.payloadByteCount)
    return try Refusal(decoding: payload.rawBytes)
  }

  @Test func whoSpeaksTLSAndOurProtocolComesIn() throws {
    let tls = try security()
    let door = try Door.open(tls)
    defer { door.doorkeeper.stop() }
    let client = try door.dial(tls)
    try client.send(hello())
    let arrival = try #require(door.arrivals.receive(until: soon()))
    #expect(arrival.hello.vmName == "door" && arrival.connection.isSealed)
    // Both ends go on from there, on other threads than the doorkeeper's.
    try arrival.connection.send([5, 6])
    #expect(try client.receiveAll(2) == [5, 6])
  }

  @Test func aHelloInTheClearIsRefusedInTheClear() throws {
    let door = try Door.open(try security())
    defer { door.doorkeeper.stop() }
    let client = try door.dial(nil)
    try client.send(hello())
    let refusal = try refusal(on: client)
    #expect(refusal.reason.contains("--tls") && refusal.reason.contains("--insecure"))
    let stranger = try #require(door.strangers.receive(until: soon()))
    #expect(stranger.description.contains("speaks no TLS"))
  }

  @Test func whoSpeaksTLSAtAPlainDoorIsToldAndTells() throws {
    let tls = try security()
    let door = try Door.open(nil)
    defer { door.doorkeeper.stop() }
    let error = #expect(throws: ConnectionError.self) { try door.dial(tls) }
    #expect(error?.kind == .tls(.peerSpeaksNoTLS))
    let stranger = try #require(door.strangers.receive(until: soon()))
    #expect(stranger.description.contains("speaks TLS"))
  }

  @Test func silentAndSlowStrangersDelayNobody() throws {
    let tls = try security()
    let door = try Door.open(tls)
    defer { door.doorkeeper.stop() }
    // More than there are places: the oldest go.
    var silent: [Connection] = []
    for _ in 0..<40 { silent.append(try door.dial(nil)) }
    // A handshake record that is announced and never comes, byte by byte.
    var slow: [Connection] = []
    for _ in 0..<4 { slow.append(try door.dial(nil)) }
    for byte: UInt8 in [22, 3, 1, 1] {
      for connection in slow { try connection.send([byte]) }
      let client = try door.dial(tls)
      try client.send(hello())
      let arrival = try #require(door.arrivals.receive(until: soon()))
      #expect(arrival.connection.isSealed)
    }
    for connection in silent + slow { connection.shutdown() }
    // Nobody was judged: they have not said enough.
    #expect(door.strangers.take() == nil)
  }

  @Test func rubbishIsSentAway() throws {
    let door = try Door.open(try security())
    defer { door.doorkeeper.stop() }
    let client = try door.dial(nil)
    try client.send(Array("GET / HTTP/1.1\r\nHost: door\r\n\r\n".utf8))
    let stranger = try #require(door.strangers.receive(until: soon()))
    #expect(stranger.description.contains("TLS"))
  }
}
