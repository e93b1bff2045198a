import Codec
import Pages
import Testing
import Wire

/// What a payload decodes to, written out so that one test can treat all types alike.
func decodedPayload(_ payload: [UInt8], of type: FrameType) throws(WireError) -> String {
  switch type {
  case .hello: "\(try Hello(bytes: payload))"
  case .welcome: "\(try Welcome(bytes: payload))"
  case .refuse: "\(try Refusal(bytes: payload))"
  case .zeroMap: "\(try RunMap.zero.runs(in: payload))"
  case .discardMap: "\(try RunMap.discard.runs(in: payload))"
  case .credit: "\(try Credit.total(bytes: payload))"
  case .seedRound, .seedRoundApplied:
    "\(try SeedRound.number(in: payload.rawBytes, of: type))"
  default: "\(try ControlMessage(bytes: payload, of: type))"
  }
}

/// The types whose payload has a layout: not pages, not device state, not header only.
let structuredTypes: [FrameType] = FrameType.allCases.filter {
  $0.isControlMessage
    || [
      .hello, .welcome, .refuse, .zeroMap, .credit, .seedRound, .seedRoundApplied, .discardMap,
    ].contains($0)
}

func samplePayload(of type: FrameType) -> [UInt8] {
  payload(ofFrame: Samples.frames.first { $0[0] == type.rawValue }!)
}

func payloadError(_ payload: [UInt8], of type: FrameType) -> WireError? {
  wireError { () throws(WireError) in _ = try decodedPayload(payload, of: type) }
}

@Suite struct PayloadTests {
  @Test func handshakeRoundTrips() throws {
    let hello = try Hello(bytes: samplePayload(of: .hello))
    #expect("\(hello)" == "\(Samples.hello)")
    #expect(hello.token.matches(Samples.hello.token))
    #expect(try Welcome(bytes: samplePayload(of: .welcome)) == Samples.welcome)
    #expect(try Refusal(bytes: samplePayload(of: .refuse)) == Samples.refusal)
  }

  @Test func aBulkHelloHasNoRegions() throws {
    var hello = Samples.hello
    hello.role = .bulk
    hello.regions = []
    let decoded = try Hello(bytes: payload(ofFrame: hello.encodedFrame()))
    #expect("\(decoded)" == "\(hello)")
  }

  @Test func theLargestHandshakeFits() throws {
    var hello = Samples.hello
    hello.vmName = String(repeating: "ü", count: 127) + "x"
    hello.regions = (0..<1024).map { index in
      Region(
        index: RegionIndex(index), imageOffset: ByteCount(index * 4096),
        byteCount: ByteCount(4096), pageSize: .small)
    }
    let frame = hello.encodedFrame()
    let header = try FrameHeader(bytes: frame)
    #expect(header.payloadByteCount == frame.count - 32)
    let decoded = try Hello(bytes: payload(ofFrame: frame))
    #expect("\(decoded)" == "\(hello)")
  }

  @Test func everyRefusalCodeAndEnumValueRoundTrips() throws {
    for code in RefusalCode.allCases {
      let refusal = Refusal(code, "because")
      let bytes = payload(ofFrame: refusal.encodedFrame(session: 1))
      #expect(try Refusal(bytes: bytes) == refusal)
    }
    for progress in DestinationProgress.allCases {
      var hello = Samples.hello
      hello.progress = progress
      let bytes = payload(ofFrame: hello.encodedFrame())
      #expect(try Hello(bytes: bytes).progress == progress)
    }
    for mode in MigrationMode.allCases {
      var welcome = Samples.welcome
      welcome.mode = mode
      welcome.isHandedOff = false
      let bytes = payload(ofFrame: welcome.encodedFrame())
      #expect(try Welcome(bytes: bytes) == welcome)
    }
  }

  @Test func controlMessagesRoundTrip() throws {
    for message in Samples.controlMessages {
      let bytes = payload(ofFrame: message.encodedFrame(session: 1))
      #expect(try ControlMessage(bytes: bytes, of: message.frameType) == message)
    }
    #expect(
      Samples.controlMessages.map(\.frameType) == FrameType.allCases.filter(\.isControlMessage))
  }

  @Test func zeroMapsAndCreditsRoundTrip() throws {
    let map = samplePayload(of: .zeroMap)
    #expect(try RunMap.zero.runs(in: map) == Samples.zeroRuns)
    #expect(try Credit.total(bytes: samplePayload(of: .credit)) == ByteCount(4 << 20))
    let full = [PageRun](repeating: run(0, 0, 1), count: WireLimits.maximumZeroMapRunCount)
    let frame = RunMap.zero.encodedFrame(full[...], session: 1)
    #expect(try FrameHeader(bytes: frame).payloadByteCount == 65_536)
  }

  @Test func everyTruncationIsRefused() {
    for type in structuredTypes {
      let whole = samplePayload(of: type)
      #expect(payloadError(whole, of: type) == nil)
      for count in 0..<whole.count where !([.zeroMap, .discardMap].contains(type) && count == 16) {
        #expect(
          payloadError(Array(whole.prefix(count)), of: type) != nil, "\(type) cut to \(count)")
      }
      #expect(payloadError(whole + [0], of: type) != nil, "\(type) with a byte more")
    }
  }

  /// Lengths that lie about what follows must not be believed, whatever follows.
  @Test(arguments: [3, 20_261_123, 0xcafe] as [UInt64])
  func randomPayloadsNeverDecodeAmbiguously(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    for round in 0..<2_000 {
      for type in structuredTypes {
        // Half of them random, half a sample with a few bytes changed.
        var bytes = samplePayload(of: type)
        if round % 2 == 0 {
          bytes = random.bytes(Int(random.next() % 120))
        } else {
          for _ in 0...(random.next() % 3) {
            bytes[Int(random.next() % UInt64(bytes.count))] = UInt8(
              truncatingIfNeeded: random.next())
          }
        }
        guard payloadError(bytes, of: type) == nil else { continue }
        #expect(try reencoded(bytes, of: type) == bytes, "seed \(seed), round \(round), \(type)")
      }
    }
  }

  private func reencoded(_ bytes: [UInt8], of type: FrameType) throws -> [UInt8] {
    let frame: [UInt8]
    switch type {
    case .hello: frame = try Hello(bytes: bytes).encodedFrame()
    case .welcome: frame = try Welcome(bytes: bytes).encodedFrame()
    case .refuse: frame = try Refusal(bytes: bytes).encodedFrame(session: 1)
    case .zeroMap:
      frame = RunMap.zero.encodedFrame(try RunMap.zero.runs(in: bytes)[...], session: 1)
    case .discardMap:
      frame = RunMap.discard.encodedFrame(try RunMap.discard.runs(in: bytes)[...], session: 1)
    case .seedRound, .seedRoundApplied:
      let number = try SeedRound.number(in: bytes.rawBytes, of: type)
      frame =
        type == .seedRound
        ? SeedRound.endFrame(number, session: 1) : SeedRound.appliedFrame(number, session: 1)
    case .credit:
      frame = Credit.encodedFrame(total: try Credit.total(bytes: bytes), session: 1)
    default:
      frame = try ControlMessage(bytes: bytes, of: type).encodedFrame(session: 1)
    }
    return payload(ofFrame: frame)
  }
}
