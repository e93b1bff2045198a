import Codec
import Testing

private let key = (0..<32).map { UInt8($0) }
private let place = ChunkPlace(kind: 1, number: 0x1122_3344_5566_7788, isLast: true)
private let content = (0..<48).map { UInt8(truncatingIfNeeded: $0 * 7) }

private func sealed(
  _ bytes: [UInt8], at place: ChunkPlace, encrypting: Bool, key: [UInt8] = key
) throws -> (bytes: [UInt8], tag: SealTag) {
  var chunks = try SealedChunks(key: key)
  var result = bytes
  let tag = try result.withMutableRawBytes { span throws(SealError) in
    try chunks.seal(&span, at: place, encrypting: encrypting)
  }
  return (result, tag)
}

/// The content, or nil when the seal does not hold.
private func opened(
  _ bytes: [UInt8], _ tag: SealTag, at place: ChunkPlace, isEncrypted: Bool, key: [UInt8] = key
) throws -> [UInt8]? {
  var chunks = try SealedChunks(key: key)
  var result = bytes
  let isSound = try result.withMutableRawBytes { span throws(SealError) in
    try chunks.open(&span, at: place, tag: tag, isEncrypted: isEncrypted)
  }
  if !isSound { #expect(result.allSatisfy { $0 == 0 }, "nothing unproven is left behind") }
  return isSound ? result : nil
}

@Suite struct SealedChunksTests {
  /// RFC 5869, test case 1.
  @Test func derivesTheKeysOfTheStandard() throws {
    let bytes = try KeyDerivation.hkdfSHA256(
      secret: [UInt8](repeating: 0x0B, count: 22), salt: (0..<13).map { UInt8($0) },
      purpose: (0xF0...0xF9).map { UInt8($0) }, byteCount: 42)
    let text = bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    #expect(
      text == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        + "34007208d5b887185865")
  }

  /// Computed by another library (Python's cryptography 48): nonce and associated data stand as
  /// the format says.
  @Test func sealsAsAnotherLibraryDoes() throws {
    let (bytes, tag) = try sealed(content, at: place, encrypting: true)
    #expect(tag == SealTag(low: 0x5419_9CB4_7766_E61C, high: 0xE877_B6AB_8275_A1DB))
    #expect(bytes.prefix(8) == [0x15, 0x39, 0x5F, 0xE6, 0xC2, 0x4E, 0x12, 0x1F])
    let plain = try sealed(content, at: place, encrypting: false)
    #expect(plain.bytes == content)
    #expect(plain.tag == SealTag(low: 0xC3C6_CD1A_3817_AE26, high: 0xD907_0C49_C745_881F))
  }

  @Test(arguments: [true, false]) func opensWhatItSealed(_ isEncrypted: Bool) throws {
    for byteCount in [0, 1, 15, 16, 17, 4096, 65_536] {
      let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 131) }
      let (sealed, tag) = try sealed(bytes, at: place, encrypting: isEncrypted)
      #expect(try opened(sealed, tag, at: place, isEncrypted: isEncrypted) == bytes)
    }
  }

  @Test func oneObjectSealsAndOpensInTurn() throws {
    var chunks = try SealedChunks(key: key)
    for number in UInt64(0)..<8 {
      let place = ChunkPlace(kind: 1, number: number)
      var bytes = content
      let tag = try bytes.withMutableRawBytes { span throws(SealError) in
        try chunks.seal(&span, at: place, encrypting: true)
      }
      #expect(bytes != content)
      let isSound = try bytes.withMutableRawBytes { span throws(SealError) in
        try chunks.open(&span, at: place, tag: tag, isEncrypted: true)
      }
      #expect(isSound && bytes == content)
    }
  }

  @Test(arguments: [true, false]) func opensNothingElse(_ isEncrypted: Bool) throws {
    let (bytes, tag) = try sealed(content, at: place, encrypting: isEncrypted)
    func opens(
      _ bytes: [UInt8], _ tag: SealTag, _ place: ChunkPlace, _ isEncrypted: Bool,
      key: [UInt8] = key
    ) throws -> Bool {
      try opened(bytes, tag, at: place, isEncrypted: isEncrypted, key: key) != nil
    }
    for position in bytes.indices {
      var changed = bytes
      changed[position] ^= 1
      #expect(try !opens(changed, tag, place, isEncrypted))
    }
    #expect(try !opens(bytes.dropLast(), tag, place, isEncrypted))
    var other = place
    other.number += 1
    #expect(try !opens(bytes, tag, other, isEncrypted))
    other = place
    other.isLast = false
    #expect(try !opens(bytes, tag, other, isEncrypted))
    other = place
    other.kind = 2
    #expect(try !opens(bytes, tag, other, isEncrypted))
    #expect(try !opens(bytes, SealTag(low: tag.low, high: tag.high ^ 1), place, isEncrypted))
    #expect(try !opens(bytes, tag, place, !isEncrypted))
    #expect(try !opens(bytes, tag, place, isEncrypted, key: key.reversed()))
    #expect(try opens(bytes, tag, place, isEncrypted))
  }

  @Test func copiesAndClearsInsideASpan() {
    var bytes = [UInt8](repeating: 9, count: 8)
    bytes.withMutableRawBytes { span in
      span.copyBytes(of: [1, 2, 3].rawBytes, at: 5)
      span.copyBytes(of: [UInt8]().rawBytes, at: 8)
      span.clearBytes(1..<3)
      span.clearBytes(8..<8)
    }
    #expect(bytes == [9, 0, 0, 9, 9, 1, 2, 3])
  }
}
