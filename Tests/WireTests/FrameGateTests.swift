import Codec
import Pages
import Testing
import Wire

@Suite struct FrameGateTests {
  private func step(_ gate: FrameGate, _ bytes: [UInt8]) throws(WireError) -> FrameGate.Step {
    try gate.next(in: bytes.rawBytes)
  }

  private func error(_ gate: FrameGate, _ bytes: [UInt8]) -> WireError? {
    wireError { () throws(WireError) in _ = try gate.next(in: bytes.rawBytes) }
  }

  private func sessionGate(from sender: Peer, on role: ConnectionRole) throws -> FrameGate {
    .session(from: sender, on: role, session: sampleSession, layout: try sampleLayout())
  }

  /// The gate that lets a frame of this type through.
  private func openGate(for type: FrameType) throws -> FrameGate {
    if type == .hello { return .handshake(from: .destination) }
    if type == .welcome || type == .refuse { return .handshake(from: .source) }
    for sender in Peer.allCases {
      for role in [ConnectionRole.urgent, .bulk, .check]
      where type.isAllowed(from: sender, on: role) {
        return try sessionGate(from: sender, on: role)
      }
    }
    Issue.record("\(type) can be sent nowhere")
    return .handshake(from: .source)
  }

  @Test func everyTruncationOfEveryFrameAsksForMore() throws {
    for frame in Samples.wholeFrames {
      let type = FrameType(rawValue: frame[0])!
      let gate = try openGate(for: type)
      for count in 0..<frame.count {
        let expected = count < 32 ? 32 : frame.count
        #expect(
          try step(gate, Array(frame.prefix(count))) == .needsBytes(expected),
          "\(type) cut to \(count)")
      }
      let header = try FrameHeader(bytes: frame)
      #expect(try step(gate, frame) == .frame(header))
      #expect(try step(gate, frame + [1, 2, 3]) == .frame(header))
    }
  }

  @Test func everyBitFlipInAFrameIsDetected() throws {
    for frame in Samples.wholeFrames {
      let gate = try openGate(for: FrameType(rawValue: frame[0])!)
      for bit in 0..<frame.count * 8 {
        var bytes = frame
        bytes[bit >> 3] ^= 1 << UInt8(bit & 7)
        #expect(error(gate, bytes) != nil, "type \(frame[0]), bit \(bit)")
      }
    }
  }

  @Test func aPageFrameIsAdmittedWithoutItsPayload() throws {
    let gate = try sessionGate(from: .source, on: .bulk)
    let header = Samples.pageHeaders[1]
    #expect(try gate.admit(bytes: encoded(header)) == header)
    #expect(try step(gate, encoded(header)) == .needsBytes(32 + 8192))
  }

  @Test(arguments: [
    "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\u{16}\u{3}\u{1}", "{",
    "P", " ",
  ])
  func strangersAreToldByTheirFirstByte(text: String) {
    let bytes = Array(text.utf8)
    for sender in Peer.allCases {
      for count in 1...bytes.count {
        let first = Array(bytes.prefix(min(8, count)))
        #expect(
          error(.handshake(from: sender), Array(bytes.prefix(count)))
            == .notOurProtocol(firstBytes: first))
      }
    }
  }

  @Test func aStrangerThatHitsTheFirstByteIsToldByTheChecksum() {
    let bytes = [1] + [UInt8](repeating: 0x41, count: 40)
    #expect(
      error(.handshake(from: .destination), bytes)
        == .notOurProtocol(firstBytes: Array(bytes.prefix(8))))
  }

  @Test func theHandshakeAdmitsItsOwnFramesOnly() throws {
    for frame in Samples.frames {
      let type = FrameType(rawValue: frame[0])!
      #expect((error(.handshake(from: .destination), frame) == nil) == (type == .hello), "\(type)")
      #expect(
        (error(.handshake(from: .source), frame) == nil)
          == (type == .welcome || type == .refuse), "\(type)")
    }
  }

  /// Written out once more, so that the table in `FrameRules` cannot change unseen.
  @Test func eachFrameComesFromItsSideOnItsConnection() throws {
    let fromSource: Set<FrameType> = [
      .refuse, .frozen, .go, .completeAcknowledged, .abort, .ping, .pong, .parked, .pages,
      .zeroPages, .poisonedPages,
    ]
    let fromDestination: Set<FrameType> = [
      .refuse, .ready, .discarded, .prepared, .ran, .complete, .aborted, .ping, .pong, .parked,
      .request,
    ]
    let fromSourceInBulk: Set<FrameType> = [
      .refuse, .pages, .zeroPages, .poisonedPages, .zeroMap, .pushFinished, .deviceState,
      .seedPages, .seedZeros, .seedRound, .discardMap,
    ]
    let fromDestinationInBulk: Set<FrameType> = [.refuse, .credit, .residentMap, .seedRoundApplied]
    let fromSourceInCheck: Set<FrameType> = [.refuse, .ping, .pong, .ready, .filler]
    let fromDestinationInCheck: Set<FrameType> = [.refuse, .ping, .pong, .ready, .credit]
    let table: [(Peer, ConnectionRole, Set<FrameType>)] = [
      (.source, .urgent, fromSource), (.destination, .urgent, fromDestination),
      (.source, .bulk, fromSourceInBulk), (.destination, .bulk, fromDestinationInBulk),
      (.source, .check, fromSourceInCheck), (.destination, .check, fromDestinationInCheck),
    ]
    for (sender, role, allowed) in table {
      let gate = try sessionGate(from: sender, on: role)
      for frame in Samples.frames {
        let type = FrameType(rawValue: frame[0])!
        let bytes = withHeaderChecksum(storing(Samples.shortID, at: 4, in: frame))
        let expected: WireError? =
          allowed.contains(type) ? nil : .misplaced(type, from: sender, on: role)
        #expect(error(gate, bytes) == expected, "\(type) from \(sender) on \(role)")
      }
    }
  }

  @Test func framesOfAnotherSessionAreRefused() throws {
    let gate = try sessionGate(from: .source, on: .urgent)
    let frame = ControlMessage.go(epoch: Epoch(rawValue: 7)).encodedFrame(session: 5)
    #expect(error(gate, frame) == .foreignSession(found: 5, expected: Samples.shortID))
  }

  @Test func pagesOutsideTheImageAreRefusedBeforeTheirPayload() throws {
    let gate = try sessionGate(from: .source, on: .bulk)
    let header = FrameHeader.pages(
      run(0, 250, 16), pageSize: .small, isDemanded: false, session: Samples.shortID, sequence: 1,
      checksum: nil)
    #expect(error(gate, encoded(header)) == .unknownPages(.pages, run(0, 250, 16)))
  }

  @Test(arguments: [4, 20_261_124] as [UInt64])
  func randomStreamsAreRefused(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let gates = [
      FrameGate.handshake(from: .source), .handshake(from: .destination),
      try sessionGate(from: .source, on: .urgent), try sessionGate(from: .source, on: .bulk),
      try sessionGate(from: .destination, on: .urgent),
      try sessionGate(from: .destination, on: .bulk),
    ]
    for round in 0..<10_000 {
      let bytes = random.bytes(32 + Int(random.next() % 64))
      for gate in gates {
        if error(gate, bytes) == nil { Issue.record("seed \(seed), round \(round): \(bytes)") }
      }
    }
  }
}

@Suite struct WireErrorTests {
  @Test func strangersCannotWriteToOurTerminal() {
    #expect("\(WireError.notOurProtocol(firstBytes: Array("GET / HT".utf8)))".contains("GET / HT"))
    let garbled = "\(WireError.notOurProtocol(firstBytes: [0x1b, 0x5b, 0x32, 0x4a]))"
    #expect(garbled.hasSuffix("1b 5b 32 4a"))
  }

  @Test func eachBecomesARefusalThatFits() {
    let errors: [(WireError, RefusalCode)] = [
      (.version(found: 2), .version), (.pageSize(RegionIndex(1), byteCount: 1 << 30), .layout),
      (.regionTooLarge(RegionIndex(0), PageCount(rawValue: 1 << 33)), .layout),
      (.foreignSession(found: 1, expected: 2), .session),
      (.unknownType(99), .protocolViolation),
      (.payloadByteCount(.go, found: 9, allowed: 8...8), .protocolViolation),
    ]
    for (error, code) in errors {
      #expect(error.refusal.code == code)
      #expect(!error.refusal.reason.isEmpty)
      #expect(error.refusal.reason.utf8.count <= WireLimits.maximumReasonByteCount)
    }
  }
}
