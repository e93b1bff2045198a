import Codec
import Pages
import Testing
import Wire

@Suite struct FrameHeaderTests {
  @Test func decodingGivesWhatWasEncoded() throws {
    for frame in Samples.frames {
      let header = try FrameHeader(bytes: frame)
      #expect(encoded(header) == Array(frame.prefix(32)))
    }
    for header in Samples.pageHeaders {
      #expect(try FrameHeader(bytes: encoded(header)) == header)
    }
  }

  @Test func bothEncodersAgree() {
    for header in Samples.pageHeaders {
      var bytes = [UInt8](repeating: 0xee, count: 40)
      bytes.withMutableRawBytes { header.encode(into: &$0) }
      #expect(Array(bytes.prefix(32)) == encoded(header))
      #expect(bytes.suffix(8).allSatisfy { $0 == 0xee })
    }
  }

  @Test func extremesOfEachFieldSurvive() throws {
    let last = PageRun(
      region: RegionIndex(rawValue: .max), start: PageIndex(rawValue: UInt64(UInt32.max)),
      count: PageCount(16))
    let header = FrameHeader.pages(
      last, pageSize: .small, isDemanded: false, session: .max, sequence: .max, checksum: .max)
    #expect(try FrameHeader(bytes: encoded(header)) == header)
  }

  @Test func everySingleBitFlipIsDetected() {
    for frame in Samples.frames {
      for bit in 0..<256 {
        var bytes = Array(frame.prefix(32))
        bytes[bit >> 3] ^= 1 << UInt8(bit & 7)
        guard case .headerChecksum? = decodeError(bytes) else {
          Issue.record("bit \(bit) of type \(frame[0]) flipped: \(String(describing: bytes))")
          continue
        }
      }
    }
  }

  @Test func everyPairOfBitFlipsIsDetected() {
    let frame = encoded(Samples.pageHeaders[1])
    for first in 0..<256 {
      for second in (first + 1)..<256 {
        var bytes = frame
        bytes[first >> 3] ^= 1 << UInt8(first & 7)
        bytes[second >> 3] ^= 1 << UInt8(second & 7)
        if decodeError(bytes) == nil { Issue.record("bits \(first) and \(second)") }
      }
    }
  }

  @Test func everyUnknownTypeIsRefused() {
    for number in UInt8.min...UInt8.max {
      let bytes = withHeaderChecksum(storing(number, at: 0, in: encoded(Samples.pageHeaders[0])))
      if FrameType(rawValue: number) == nil {
        #expect(decodeError(bytes) == .unknownType(number))
      } else {
        #expect(decodeError(bytes) != .unknownType(number))
      }
    }
  }

  @Test func everyFlagThatATypeDoesNotKnowIsRefused() {
    for frame in Samples.frames {
      let type = FrameType(rawValue: frame[0])!
      for bit in 0..<8 {
        let flag: UInt8 = 1 << UInt8(bit)
        let bytes = withHeaderChecksum(storing(frame[1] | flag, at: 1, in: Array(frame.prefix(32))))
        // What is demanded is not packed.
        let isAllowed =
          type.allowedFlags.contains(FrameFlags(rawValue: flag)) && (frame[1] | flag) & 10 != 10
        #expect(decodeError(bytes) == (isAllowed ? nil : .flags(type, flag)), "\(type) bit \(bit)")
      }
    }
  }

  @Test func everyPayloadSizeOutsideTheTypesBoundsIsRefused() {
    for frame in Samples.frames {
      let type = FrameType(rawValue: frame[0])!
      let allowed = type.payloadByteCounts([])
      let outside = [allowed.lowerBound - 1, allowed.upperBound + 1, Int(Int32.max), 0xffff_ffff]
      for size in outside where size >= 0 {
        let bytes = withHeaderChecksum(storing(UInt32(size), at: 16, in: Array(frame.prefix(32))))
        #expect(
          decodeError(bytes) == .payloadByteCount(type, found: size, allowed: allowed),
          "\(type) with \(size)")
      }
      for size in [allowed.lowerBound, allowed.upperBound] {
        let bytes = withHeaderChecksum(storing(UInt32(size), at: 16, in: Array(frame.prefix(32))))
        #expect(decodeError(bytes) == nil, "\(type) with \(size)")
      }
    }
  }

  @Test func fieldsWithoutMeaningMustBeZero() {
    let fields: [(offset: Int, field: WireField)] = [
      (2, .region), (8, .pageIndex), (12, .pageCount), (20, .sequence),
    ]
    for frame in Samples.frames {
      let type = FrameType(rawValue: frame[0])!
      for (offset, field) in fields where !type.namesPages {
        let bytes = withHeaderChecksum(storing(UInt8(1), at: offset, in: Array(frame.prefix(32))))
        #expect(decodeError(bytes) == .notZero(type, field))
      }
      if !FrameFlags(rawValue: frame[1]).contains(.hasPayloadChecksum) {
        let bytes = withHeaderChecksum(storing(UInt8(1), at: 24, in: Array(frame.prefix(32))))
        #expect(decodeError(bytes) == .notZero(type, .payloadChecksum))
      }
    }
  }

  @Test func aRunHasOneToSixteenPages() {
    for header in Samples.pageHeaders {
      for count in [0, 17, 4096, UInt32.max] as [UInt32] {
        let bytes = withHeaderChecksum(storing(count, at: 12, in: encoded(header)))
        #expect(decodeError(bytes) == .value(header.type, .pageCount, found: UInt64(count)))
      }
    }
  }

  @Test func payloadsAreVerified() throws {
    let payload = (0..<64).map { UInt8($0) }
    let header = FrameHeader.payload(.deviceState, session: 1, payload.rawBytes)
    try header.verify(payload: payload.rawBytes)
    for bit in 0..<payload.count * 8 {
      var changed = payload
      changed[bit >> 3] ^= 1 << UInt8(bit & 7)
      let error = wireError { () throws(WireError) in
        try header.verify(payload: changed.rawBytes)
      }
      guard case .payloadChecksum(.deviceState, _, _)? = error else {
        Issue.record("bit \(bit) flipped: \(String(describing: error))")
        continue
      }
    }
    var unchecked = header
    unchecked.flags = []
    unchecked.payloadChecksum = 0
    try unchecked.verify(payload: [UInt8](repeating: 7, count: 64).rawBytes)
  }

  @Test func aBugInTheEncoderStopsTheProcess() async {
    await #expect(processExitsWith: .failure) {
      _ = encoded(FrameHeader(type: .ready, session: 1, payloadByteCount: 9))
    }
    await #expect(processExitsWith: .failure) {
      _ = encoded(FrameHeader(type: .go, flags: .demanded, session: 1, payloadByteCount: 8))
    }
    await #expect(processExitsWith: .failure) {
      _ = encoded(.request(run(0, 1 << 32, 1), session: 1, sequence: 1))
    }
  }
}

@Suite struct FrameHeaderAgainstImageTests {
  private func judge(_ header: FrameHeader) throws -> WireError? {
    let layout = try sampleLayout()
    return wireError { () throws(WireError) in try header.validate(against: layout) }
  }

  private func pages(_ run: PageRun, byteCount: Int) -> FrameHeader {
    FrameHeader(type: .pages, session: 1, run: run, payloadByteCount: byteCount)
  }

  @Test func existingPagesPass() throws {
    for header in Samples.pageHeaders { #expect(try judge(header) == nil) }
    #expect(try judge(pages(run(0, 240, 16), byteCount: 65_536)) == nil)
    #expect(try judge(pages(run(0, 255, 1), byteCount: 4096)) == nil)
    #expect(try judge(pages(run(1, 1, 1), byteCount: 2_097_152)) == nil)
  }

  @Test func pagesOutsideTheImageAreRefused() throws {
    for outside in [
      run(0, 256, 1), run(0, 255, 2), run(0, 0xffff_ffff, 16), run(1, 2, 1), run(2, 0, 1),
      run(65_535, 0, 1),
    ] {
      for type in [FrameType.request, .zeroPages, .poisonedPages] {
        let header = FrameHeader(type: type, session: 1, run: outside)
        #expect(try judge(header) == .unknownPages(type, outside))
      }
      let size = Int(outside.count.rawValue) * 4096
      #expect(
        try judge(pages(outside, byteCount: size)) == .unknownPages(.pages, outside))
    }
  }

  @Test func aFrameCarriesOneHugePageAtMost() throws {
    for type in [FrameType.request, .zeroPages, .poisonedPages] {
      let header = FrameHeader(type: type, session: 1, run: run(1, 0, 2))
      #expect(try judge(header) == .value(type, .pageCount, found: 2))
    }
  }

  @Test func thePayloadIsExactlyAsLongAsItsPages() throws {
    for size in [4096, 4095, 8191, 8193, 12_288, 65_536] {
      #expect(
        try judge(pages(run(0, 0, 2), byteCount: size))
          == .payloadMismatch(.pages, found: size, expected: 8192))
    }
    for size in [4096, 65_536, 2_097_151] {
      #expect(
        try judge(pages(run(1, 0, 1), byteCount: size))
          == .payloadMismatch(.pages, found: size, expected: 2_097_152))
    }
  }
}

@Suite struct RandomHeaderTests {
  @Test(arguments: [1, 20_261_121, 0xfeed_beef] as [UInt64])
  func randomBytesNeverDecode(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    for round in 0..<100_000 / 3 + 1 {
      let bytes = random.bytes(32)
      guard case .headerChecksum? = decodeError(bytes) else {
        Issue.record("seed \(seed), round \(round): \(bytes) decodes")
        continue
      }
    }
  }

  /// As from a peer that computes checksums: whatever decodes means one thing only, and keeps every
  /// bound that later code relies on.
  @Test(arguments: [2, 20_261_122, 0xdead_beef] as [UInt64])
  func randomFieldsNeverBreakABound(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let layout = try sampleLayout()
    var decodedCount = 0
    for round in 0..<100_000 / 3 + 1 {
      // Small numbers in most fields, or hardly anything would get past the first check.
      var bytes = random.bytes(32)
      bytes[0] &= 0x2f
      bytes[1] &= random.next() % 8 == 0 ? 15 : 7
      for offset in 2..<24 where random.next() % 8 != 0 { bytes[offset] = 0 }
      for offset in 24..<28 where bytes[1] & 4 == 0 { bytes[offset] = 0 }
      bytes = withHeaderChecksum(bytes)
      guard decodeError(bytes) == nil else { continue }
      decodedCount += 1
      let header = try FrameHeader(bytes: bytes)
      #expect(encoded(header) == bytes, "seed \(seed), round \(round)")
      #expect(header.type.payloadByteCounts(header.flags).contains(header.payloadByteCount))
      let error = wireError { () throws(WireError) in try header.validate(against: layout) }
      if header.type.namesPages, error == nil {
        #expect(layout.contains(header.run), "seed \(seed), round \(round)")
      }
    }
    #expect(decodedCount > 100, "seed \(seed) must reach the later checks")
  }
}
