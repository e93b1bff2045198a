import Codec
import Testing

/// Of some of the bytes; expectations cannot hold a span themselves.
func checksum(of bytes: [UInt8], in range: Range<Int>? = nil) -> UInt32 {
  CRC32C.checksum(of: bytes.rawBytes.extracting(range ?? 0..<bytes.count))
}

@Suite struct CRC32CTests {
  /// RFC 3720, appendix B.4, and the check value of the CRC catalogues.
  static let vectors: [(bytes: [UInt8], checksum: UInt32)] = [
    ([], 0),
    (Array("123456789".utf8), 0xe306_9283),
    ([UInt8](repeating: 0, count: 32), 0x8a91_36aa),
    ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43),
    ((0..<32).map { UInt8($0) }, 0x46dd_794e),
    ((0..<32).map { UInt8(31 - $0) }, 0x113f_db5c),
  ]

  @Test func knownVectors() {
    for (bytes, expected) in Self.vectors {
      #expect(checksum(of: bytes) == expected)
    }
  }

  /// Bit by bit, from the polynomial: what ISA-L's instructions have to agree with.
  static func bitwise(_ bytes: some Sequence<UInt8>) -> UInt32 {
    var register: UInt32 = ~0
    for byte in bytes {
      register ^= UInt32(byte)
      for _ in 0..<8 { register = (register >> 1) ^ (register & 1 == 1 ? 0x82f6_3b78 : 0) }
    }
    return ~register
  }

  @Test(arguments: [1, 7, 8, 15, 16, 28, 63, 64, 65, 255, 256, 1023, 4095, 4096, 4097])
  func agreesWithThePolynomialAtEachLengthAndAlignment(byteCount: Int) {
    let bytes = (0..<byteCount + 8).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ byteCount) }
    for start in 0..<8 {
      #expect(
        checksum(of: bytes, in: start..<start + byteCount)
          == Self.bitwise(bytes[start..<start + byteCount]),
        "\(byteCount) bytes from \(start)")
    }
  }

  @Test func piecesGiveTheChecksumOfTheWhole() {
    let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    let whole = CRC32C.checksum(of: bytes.rawBytes)
    for cut in 0...bytes.count {
      var running = CRC32C()
      running.update(bytes.rawBytes.extracting(first: cut))
      var continued = CRC32C(continuing: running.value)
      continued.update(bytes.rawBytes.extracting(cut..<bytes.count))
      running.update(bytes.rawBytes.extracting(cut..<bytes.count))
      #expect(running.value == whole)
      #expect(continued.value == whole)
    }
  }

  @Test func everySingleBitChangesIt() {
    var bytes = [UInt8](repeating: 0xa5, count: 512)
    let original = checksum(of: bytes)
    for bit in 0..<bytes.count * 8 {
      bytes[bit >> 3] ^= 1 << UInt8(bit & 7)
      #expect(checksum(of: bytes) != original)
      bytes[bit >> 3] ^= 1 << UInt8(bit & 7)
    }
  }
}
