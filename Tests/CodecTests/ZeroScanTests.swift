import Codec
import Testing

/// Of some of the bytes; expectations cannot hold a span themselves.
func isZero(_ bytes: [UInt8], in range: Range<Int>? = nil) -> Bool {
  ZeroScan.isZero(bytes.rawBytes.extracting(range ?? 0..<bytes.count))
}

@Suite struct ZeroScanTests {
  @Test(arguments: [0, 1, 7, 8, 63, 64, 65, 127, 128, 129, 4096, 65_536])
  func zerosAreZero(byteCount: Int) {
    #expect(isZero([UInt8](repeating: 0, count: byteCount)))
  }

  /// The scan reads in large words with a tail: each place must be looked at, at any alignment.
  @Test(arguments: [1, 7, 64, 65, 129, 200, 4096])
  func oneBitAnywhereIsSeen(byteCount: Int) {
    var bytes = [UInt8](repeating: 0, count: byteCount + 3)
    for start in 0..<3 {
      for position in start..<start + byteCount {
        bytes[position] = 1 << UInt8(position & 7)
        #expect(
          !isZero(bytes, in: start..<start + byteCount),
          "byte \(position) of \(byteCount) from \(start)")
        bytes[position] = 0
      }
    }
  }

  @Test func bytesAroundTheSpanDoNotCount() {
    var bytes = [UInt8](repeating: 0, count: 300)
    for start in 1..<64 {
      bytes[start - 1] = 0xff
      bytes[start + 200] = 0xff
      #expect(isZero(bytes, in: start..<start + 200))
      bytes[start - 1] = 0
      bytes[start + 200] = 0
    }
  }
}
