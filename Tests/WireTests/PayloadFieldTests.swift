import Codec
import Pages
import Testing
import Wire

/// One field at a time out of its range, all others right.
@Suite struct PayloadFieldTests {
  private func expect(
    _ expected: WireError, _ type: FrameType, _ payload: [UInt8],
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(payloadError(payload, of: type) == expected, sourceLocation: sourceLocation)
  }

  @Test func helloFields() {
    let hello = samplePayload(of: .hello)
    expect(
      .notOurProtocol(firstBytes: [0x51, 0x53, 0x54, 0x43, 0x4f, 0x50, 0x59, 0xf7]), .hello,
      storing(UInt8(0x51), at: 0, in: hello))
    for version in [0, 2, UInt16.max] as [UInt16] {
      expect(.version(found: version), .hello, storing(version, at: 8, in: hello))
    }
    for role in [0, 4, 255] as [UInt8] {
      expect(.value(.hello, .role, found: UInt64(role)), .hello, storing(role, at: 10, in: hello))
    }
    for progress in [7, 255] as [UInt8] {
      expect(
        .value(.hello, .progress, found: UInt64(progress)), .hello,
        storing(progress, at: 11, in: hello))
    }
    expect(.value(.hello, .regionCount, found: 0), .hello, storing(UInt16(0), at: 12, in: hello))
    for count in [1025, UInt16.max] as [UInt16] {
      expect(
        .value(.hello, .regionCount, found: UInt64(count)), .hello,
        storing(count, at: 12, in: hello))
    }
    expect(
      .payloadMismatch(.hello, found: 124, expected: 148), .hello,
      storing(UInt16(3), at: 12, in: hello))
    for count in [0, 256, UInt16.max] as [UInt16] {
      expect(
        .value(.hello, .name, found: UInt64(count)), .hello, storing(count, at: 14, in: hello))
    }
    expect(
      .payloadMismatch(.hello, found: 124, expected: 125), .hello,
      storing(UInt16(5), at: 14, in: hello))
    expect(
      .value(.hello, .epoch, found: .max), .hello, storing(UInt64.max, at: 32, in: hello))
  }

  @Test func aBulkHelloWithRegionsIsRefused() {
    let hello = storing(ConnectionRole.bulk.rawValue, at: 10, in: samplePayload(of: .hello))
    expect(.value(.hello, .regionCount, found: 2), .hello, hello)
  }

  /// Another version's hello may be anything behind the version.
  @Test func theVersionIsJudgedBeforeAllElse() {
    for count in [10, 11, 40, 200] {
      var other = [UInt8](repeating: 0xff, count: count)
      other.replaceSubrange(0..<8, with: samplePayload(of: .hello).prefix(8))
      expect(.version(found: 0xffff), .hello, other)
    }
  }

  @Test(arguments: ["a\u{7}b", "a\nb", "\u{1b}[2J", "a\u{0}", "\u{202e}x", "x\u{85}y"])
  func textsThatGarbleATerminalAreRefused(name: String) {
    #expect(!Hello.isNameValid(name))
    var hello = samplePayload(of: .hello)
    hello.replaceSubrange(72..<76, with: name.utf8)
    hello = storing(UInt16(name.utf8.count), at: 14, in: hello)
    expect(.text(.hello, .name), .hello, hello)
    var refusal: [UInt8] = [2, 0]
    refusal.appendLittleEndian(UInt16(name.utf8.count))
    expect(.text(.refuse, .reason), .refuse, refusal + name.utf8)
  }

  @Test(arguments: [[0xff], [0xc3], [0xc0, 0x80], [0xed, 0xa0, 0x80]] as [[UInt8]])
  func textsThatAreNotUTF8AreRefused(units: [UInt8]) {
    var refusal: [UInt8] = [2, 0]
    refusal.appendLittleEndian(UInt16(units.count))
    expect(.text(.refuse, .reason), .refuse, refusal + units)
  }

  @Test func namesKeepTheirBounds() {
    #expect(!Hello.isNameValid(""))
    #expect(Hello.isNameValid("vm"))
    #expect(Hello.isNameValid(String(repeating: "x", count: 255)))
    #expect(!Hello.isNameValid(String(repeating: "x", count: 256)))
    #expect(!Hello.isNameValid(String(repeating: "ü", count: 128)))
  }

  @Test(arguments: [(FrameType.hello, 76), (FrameType.welcome, 32)])
  func regionFields(type: FrameType, firstRegion: Int) {
    let sample = samplePayload(of: type)
    let second = firstRegion + 24
    for bytes in [0, 1, 4095, 8192, 0x4000_0000, UInt32.max] as [UInt32] {
      expect(
        .pageSize(RegionIndex(1), byteCount: bytes), type,
        storing(bytes, at: second + 16, in: sample))
    }
    expect(.notZero(type, .reserved), type, storing(UInt32(1), at: firstRegion + 20, in: sample))
    expect(
      .regionTooLarge(RegionIndex(0), PageCount(rawValue: (1 << 32) + 1)), type,
      storing(((UInt64(1) << 32) + 1) << 12, at: firstRegion + 8, in: sample))
    #expect(
      payloadError(storing(UInt64(1) << 44, at: firstRegion + 8, in: sample), of: type) == nil)
  }

  @Test func welcomeFields() {
    let welcome = samplePayload(of: .welcome)
    expect(
      .value(.welcome, .epoch, found: .max), .welcome,
      storing(UInt64.max, at: 16, in: welcome))
    for mode in [0, 5, 255] as [UInt8] {
      expect(
        .value(.welcome, .mode, found: UInt64(mode)), .welcome, storing(mode, at: 24, in: welcome))
    }
    for count in [0, 17, 255] as [UInt8] {
      expect(
        .value(.welcome, .bulkConnectionCount, found: UInt64(count)), .welcome,
        storing(count, at: 25, in: welcome))
    }
    expect(
      .value(.welcome, .isHandedOff, found: 2), .welcome, storing(UInt8(2), at: 26, in: welcome))
    expect(.notZero(.welcome, .reserved), .welcome, storing(UInt8(1), at: 27, in: welcome))
    for count in [57, 16_385, UInt16.max] as [UInt16] {
      expect(
        .value(.welcome, .processorFeatures, found: UInt64(count)), .welcome,
        storing(count, at: 30, in: welcome))
    }
    expect(
      .payloadMismatch(.welcome, found: 79, expected: 80), .welcome,
      storing(UInt16(9), at: 30, in: welcome))
    expect(
      .text(.welcome, .processorFeatures), .welcome,
      storing(UInt8(0x1b), at: welcome.count - 1, in: welcome))
    expect(
      .value(.welcome, .regionCount, found: 1025), .welcome,
      storing(UInt16(1025), at: 28, in: welcome))
    expect(
      .payloadMismatch(.welcome, found: 80, expected: 56), .welcome,
      storing(UInt16(1), at: 28, in: welcome))
  }

  @Test func controlFields() {
    for type in structuredTypes.filter(\.isControlMessage) where type != .ping && type != .pong {
      let sample = samplePayload(of: type)
      for epoch in [WireLimits.maximumEpoch + 1, UInt64.max] {
        expect(.value(type, .epoch, found: epoch), type, storing(epoch, at: 0, in: sample))
      }
      #expect(payloadError(storing(UInt64(1) << 48, at: 0, in: sample), of: type) == nil)
    }
    let tooMany = (UInt64(1) << 34) + 1
    expect(
      .value(.frozen, .pageCount, found: tooMany), .frozen,
      storing(tooMany, at: 8, in: samplePayload(of: .frozen)))
    expect(
      .value(.frozen, .fillsBeforeRun, found: 2), .frozen,
      storing(UInt8(2), at: 16, in: samplePayload(of: .frozen)))
    expect(
      .value(.ran, .nanoseconds, found: .max), .ran,
      storing(UInt64.max, at: 8, in: samplePayload(of: .ran)))
    for type in [FrameType.abort, .aborted, .parked] {
      for code in [0, 16, UInt16.max] as [UInt16] {
        expect(
          .value(type, .code, found: UInt64(code)), type,
          storing(code, at: 8, in: samplePayload(of: type)))
      }
      let found = samplePayload(of: type).count
      expect(
        .payloadMismatch(type, found: found, expected: 12 + 1000), type,
        storing(UInt16(1000), at: 10, in: samplePayload(of: type)))
      expect(
        .value(type, .reason, found: 1025), type,
        storing(UInt16(1025), at: 10, in: samplePayload(of: type)))
    }
  }

  @Test func zeroMapFields() {
    let map = samplePayload(of: .zeroMap)
    expect(.notZero(.zeroMap, .reserved), .zeroMap, storing(UInt16(1), at: 18, in: map))
    expect(.value(.zeroMap, .pageCount, found: 0), .zeroMap, storing(UInt64(0), at: 8, in: map))
    expect(
      .unknownPages(.zeroMap, run(0, 3, 254)), .zeroMap, storing(UInt64(254), at: 8, in: map))
    let endless = PageRun(
      region: RegionIndex(0), start: PageIndex(3), count: PageCount(rawValue: .max))
    expect(.unknownPages(.zeroMap, endless), .zeroMap, storing(UInt64.max, at: 8, in: map))
    expect(.unknownPages(.zeroMap, run(2, 3, 5)), .zeroMap, storing(UInt16(2), at: 0, in: map))
    expect(
      .unknownPages(.zeroMap, run(0, 256, 5)), .zeroMap, storing(UInt32(256), at: 4, in: map))
    #expect(payloadError(storing(UInt64(253), at: 8, in: map), of: .zeroMap) == nil)
  }

  @Test func creditField() {
    let credit = samplePayload(of: .credit)
    expect(.value(.credit, .credit, found: .max), .credit, storing(UInt64.max, at: 0, in: credit))
    #expect(payloadError(storing(UInt64(1) << 62, at: 0, in: credit), of: .credit) == nil)
  }

  @Test func reasonsAreCutAndCleaned() throws {
    let long = Refusal(.vmm, "a\nb\u{1b}" + String(repeating: "ü", count: 1000))
    let bytes = payload(ofFrame: long.encodedFrame(session: 0))
    let decoded = try Refusal(bytes: bytes)
    #expect(decoded.reason == "a b " + String(repeating: "ü", count: 510))
    #expect(decoded.reason.utf8.count == WireLimits.maximumReasonByteCount)
  }
}
