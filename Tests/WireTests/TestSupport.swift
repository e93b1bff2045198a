import Codec
import Pages
import Wire

/// SplitMix64: the same numbers for the same seed, on every machine.
struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  mutating func bytes(_ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count { bytes.appendLittleEndian(next()) }
    return Array(bytes.prefix(count))
  }
}

/// 256 small pages and two huge ones, as the samples name them.
let sampleRegions = [
  Region(
    index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(0x10_0000), pageSize: .small),
  Region(
    index: RegionIndex(1), imageOffset: ByteCount(0x20_0000), byteCount: ByteCount(0x40_0000),
    pageSize: .huge),
]

func sampleLayout() throws -> ImageLayout { try ImageLayout(sampleRegions) }

let sampleSession = SessionID(high: 0x0102_0304_0506_0708, low: 0x090a_0b0c_0a0b_0c0d)

func run(_ region: Int, _ start: Int, _ count: Int) -> PageRun {
  PageRun(region: RegionIndex(region), start: PageIndex(start), count: PageCount(count))
}

func encoded(_ header: FrameHeader) -> [UInt8] {
  var bytes: [UInt8] = []
  header.appendEncoded(to: &bytes)
  return bytes
}

func payload(ofFrame frame: [UInt8]) -> [UInt8] { Array(frame.dropFirst(32)) }

/// Replaces the integer at `offset`.
func storing<Integer: FixedWidthInteger>(
  _ value: Integer, at offset: Int, in bytes: [UInt8]
) -> [UInt8] {
  var piece: [UInt8] = []
  piece.appendLittleEndian(value)
  var bytes = bytes
  bytes.replaceSubrange(offset..<offset + piece.count, with: piece)
  return bytes
}

/// Makes the header's checksum right again, as a peer that means it would.
func withHeaderChecksum(_ bytes: [UInt8]) -> [UInt8] {
  storing(CRC32C.checksum(of: bytes.rawBytes.extracting(first: 28)), at: 28, in: bytes)
}

/// The error that `body` throws, nil when it throws none.
func wireError(_ body: () throws(WireError) -> Void) -> WireError? {
  do throws(WireError) {
    try body()
    return nil
  } catch { return error }
}

func decodeError(_ bytes: [UInt8]) -> WireError? {
  wireError { () throws(WireError) in _ = try FrameHeader(decoding: bytes.rawBytes) }
}

// Expectations cannot hold a span themselves, so the tests hand over arrays.

extension FrameHeader {
  init(bytes: [UInt8]) throws(WireError) { try self.init(decoding: bytes.rawBytes) }

  func verify(bytes: [UInt8]) throws(WireError) { try verify(payload: bytes.rawBytes) }
}

extension Hello {
  init(bytes: [UInt8]) throws(WireError) { try self.init(decoding: bytes.rawBytes) }
}

extension Welcome {
  init(bytes: [UInt8]) throws(WireError) { try self.init(decoding: bytes.rawBytes) }
}

extension Refusal {
  init(bytes: [UInt8]) throws(WireError) { try self.init(decoding: bytes.rawBytes) }
}

extension ControlMessage {
  init(bytes: [UInt8], of type: FrameType) throws(WireError) {
    try self.init(decoding: bytes.rawBytes, of: type)
  }
}

extension RunMap {
  /// All runs.
  func runs(in bytes: [UInt8]) throws(WireError) -> [PageRun] {
    // The samples' image is valid.
    guard let layout = try? sampleLayout() else { return [] }
    var runs: [PageRun] = []
    for position in 0..<(try runCount(in: bytes.rawBytes)) {
      runs.append(try run(at: position, in: bytes.rawBytes, of: layout))
    }
    return runs
  }
}

extension Credit {
  static func total(bytes: [UInt8]) throws(WireError) -> ByteCount {
    try total(in: bytes.rawBytes)
  }
}

extension FrameGate {
  func next(bytes: [UInt8]) throws(WireError) -> Step { try next(in: bytes.rawBytes) }

  func admit(bytes: [UInt8]) throws(WireError) -> FrameHeader { try admit(bytes.rawBytes) }
}
