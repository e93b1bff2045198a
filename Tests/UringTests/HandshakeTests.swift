import COpenSSL
import Glibc
import Pages
import System
import Testing

@testable import Uring

@Suite(.timeLimit(.minutes(5))) struct HandshakeTests {
  @Test(arguments: ["127.0.0.1:0", "[::1]:0"]) func bothSidesTakeEachOther(
    _ address: String
  ) throws {
    let context = try Party.context()
    let (client, server) = try Handshaken(client: context, server: context, at: address).ends()
    #expect(client.isSealed && server.isSealed)
    try client.send([1, 2, 3])
    #expect(try server.receiveAll(3) == [1, 2, 3])
    try server.send([4, 5])
    #expect(try client.receiveAll(2) == [4, 5])
  }

  @Test func aUnixSocketNeedsNoTLS() throws {
    let context = try Party.context()
    let path = "/tmp/uring-tls-\(getpid())-\(UInt32.random(in: 0 ... .max)).sock"
    let (client, server) = try Handshaken(
      client: context, server: context, at: "unix:\(path)"
    ).ends()
    #expect(!client.isSealed && !server.isSealed)
    #expect(try server.advanceHandshake())
  }

  @Test func itIsTLS13WithOneOfItsBestCiphers() throws {
    let context = try Party.context()
    let (client, _) = try Handshaken(client: context, server: context).ends()
    let tls = try #require(client.tls)
    #expect(tls.engine.withLock { $0.description } == "TLSv1.3 TLS_AES_128_GCM_SHA256")
  }

  @Test func theNameDemandedIsLookedForOnBothSides() throws {
    for name in ["source.example", "127.0.0.1"] {
      let context = try Party.context(peerName: name)
      _ = try Handshaken(client: context, server: context).ends()
    }
    let any = try Party.context()
    for name in ["elsewhere.example", "127.0.0.2"] {
      let picky = try Party.context(peerName: name)
      let byClient = try Handshaken(client: picky, server: any)
      #expect(byClient.clientError?.kind == .tls(.peerCertificate(.otherName(name))))
      #expect(byClient.serverError?.kind == .tls(.ourCertificateRefused(alert: 42)))
      let byServer = try Handshaken(client: any, server: picky)
      #expect(byServer.serverError?.kind == .tls(.peerCertificate(.otherName(name))))
      #expect(byServer.clientError?.kind == .tls(.ourCertificateRefused(alert: 42)))
    }
  }

  static let faults: [(CertificateFault, UInt8)] = [
    (.expired, 45), (.notYetValid, 42), (.otherAuthority, 48),
  ]

  /// A context whose certificate has that fault, for somebody who trusts the test authority.
  private func faulty(_ fault: CertificateFault) throws -> TLSContext {
    let own =
      switch fault {
      case .expired:
        try Party.host(["x"], .init(fromSeconds: -7200, untilSeconds: -3600))
      case .notYetValid: try Party.host(["x"], .init(fromSeconds: 3600, untilSeconds: 7200))
      default: try Party.host(["x"], signedBy: Party.otherAuthority)
      }
    return try Party.context(own: own, trusting: Party.authority)
  }

  @Test(arguments: faults) func theServersCertificateIsJudged(
    _ fault: CertificateFault, _ alert: UInt8
  ) throws {
    let handshake = try Handshaken(client: Party.context(), server: faulty(fault))
    #expect(handshake.clientError?.kind == .tls(.peerCertificate(fault)))
    #expect(handshake.serverError?.kind == .tls(.ourCertificateRefused(alert: alert)))
    #expect(handshake.client == nil)
  }

  @Test(arguments: faults) func theClientsCertificateIsJudged(
    _ fault: CertificateFault, _ alert: UInt8
  ) throws {
    let handshake = try Handshaken(client: faulty(fault), server: Party.context())
    #expect(handshake.serverError?.kind == .tls(.peerCertificate(fault)))
    #expect(handshake.clientError?.kind == .tls(.ourCertificateRefused(alert: alert)))
    #expect(handshake.client == nil)
  }

  @Test func aClientWithoutCertificateIsRefused() throws {
    let handshake = try Handshaken(
      client: Party.context(own: nil, trusting: Party.authority), server: Party.context())
    #expect(handshake.serverError?.kind == .tls(.peerHasNoCertificate))
    #expect(handshake.clientError?.kind == .tls(.ourCertificateRefused(alert: 116)))
    #expect(handshake.clientError?.description.contains("none was shown") == true)
  }

  @Test func anOlderTLSIsRefused() throws {
    for isClient in [true, false] {
      let old = try Party.context()
      // unsafe: nobody else has the context yet.
      unsafe SSL_CTX_ctrl(old.pointer, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_2_VERSION), nil)
      unsafe SSL_CTX_ctrl(old.pointer, SSL_CTRL_SET_MAX_PROTO_VERSION, Int(TLS1_2_VERSION), nil)
      let new = try Party.context()
      let handshake = try Handshaken(client: isClient ? old : new, server: isClient ? new : old)
      #expect(handshake.clientError?.kind == .tls(.nothingInCommon))
      #expect(handshake.serverError?.kind == .tls(.nothingInCommon))
    }
  }

  @Test func aPlainClientIsTold() throws {
    let handshake = try Handshaken(client: nil, server: Party.context()) {
      client throws(ConnectionError) in
      try client.send(Array("PSTCOPY hello, in the clear, long enough to be judged".utf8))
    }
    #expect(handshake.serverError?.kind == .tls(.peerSpeaksNoTLS))
    #expect(handshake.serverError?.description.contains("--insecure") == true)
  }

  @Test func aPlainServerIsTold() throws {
    let listener = try Listener(Endpoint(parsing: "127.0.0.1:0"))
    let server = ThreadBox(
      try WorkerThread(name: "server") {
        guard let accepted = try? listener.accept(until: soon()) else { return }
        try? accepted.send([3, 4, 0, 0, 0, 0, 0, 0])
        // Until the client has had enough.
        _ = accepted.drained()
      })
    defer { server.join() }
    let context = try Party.context()
    let error = #expect(throws: ConnectionError.self) {
      try Connection.dial(listener.endpoint, purpose: .urgent, tls: context, until: soon())
    }
    #expect(error?.kind == .tls(.peerSpeaksNoTLS))
  }

  @Test func aServerThatSaysNothingEndsTheDialAtItsDeadlineOrAtTheEvent() throws {
    let listener = try Listener(Endpoint(parsing: "127.0.0.1:0"))
    let context = try Party.context()
    let late = #expect(throws: ConnectionError.self) {
      try Connection.dial(
        listener.endpoint, purpose: .urgent, tls: context,
        until: MonotonicClock.now().advanced(byNanoseconds: 20_000_000))
    }
    #expect(late?.kind == .timedOut)
    let event = try WakeEvent()
    event.signal()
    let cancelled = #expect(throws: ConnectionError.self) {
      try Connection.dial(
        listener.endpoint, purpose: .urgent, tls: context, until: soon(), cancel: event)
    }
    #expect(cancelled?.kind == .cancelled)
  }

  @Test func aPeerThatSaysTooMuchBeforeItIsKnownIsCutOff() throws {
    let (stranger, server) = try Connection.pair(purpose: .urgent)
    let context = try Party.context()
    let engine = Lock(try TLSEngine(context, .server, descriptor: server.rawDescriptor))
    // Handshake records that belong to a ClientHello that never ends: 16 384 bytes each.
    let record: [UInt8] = [22, 3, 1, 0x40, 0] + [1, 1, 0xff, 0xff]
    var sent = 0
    var step = TLSStep.needsInput
    while case .needsInput = step, sent < 1 << 20 {
      try stranger.send(record + [UInt8](repeating: 0, count: 16_380))
      sent += 16_389
      step = engine.withLock { $0.shakeHands() }
    }
    guard case .failed(let failure) = step else {
      Issue.record("\(step)")
      return
    }
    #expect(failure != .peerSpeaksNoTLS)
    #expect(sent <= 2 * TLSTransport.handshakeLimitByteCount)
  }

  @Test func aHandshakeGoesOnByteByByteWithoutBlocking() throws {
    let context = try Party.context()
    // The server's end is fed by hand with what a true client says.
    let (client, here) = try Connection.pair(purpose: .urgent, tls: (context, context))
    let (relayed, server) = try Connection.pair(purpose: .urgent)
    let slow = try Connection(
      adopting: OwnedDescriptor(adopting: dup(server.rawDescriptor)), peer: .unix(path: "slow"),
      purpose: .urgent, (context, .server))
    var isOver = (client: false, server: false)
    while !isOver.client || !isOver.server {
      if !isOver.client { isOver.client = try client.advanceHandshake() }
      for byte in here.taken() {
        try relayed.send([byte])
        if !isOver.server { isOver.server = try slow.advanceHandshake() }
      }
      try here.give(relayed.taken())
    }
    #expect(isOver.client && isOver.server)
  }
}
