import Codec
import Pages
import Testing
import Wire

@Suite struct PackedPagesTests {
  private static let plain = FrameHeader.seedPages(
    PageRun(region: RegionIndex(0), start: PageIndex(16), count: PageCount(2)), pageSize: .small,
    session: Samples.shortID, sequence: 5, checksum: nil)

  private func frame(
    _ prefix: [UInt8], _ body: [UInt8], _ plain: FrameHeader = plain
  ) -> [UInt8] {
    let payload = prefix + body
    var bytes: [UInt8] = []
    plain.packed(byteCount: payload.count, checksum: CRC32C.checksum(of: payload.rawBytes))
      .appendEncoded(to: &bytes)
    return bytes + payload
  }

  private func prefix(_ pages: PackedPages) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xFF, count: WireLimits.packedPrefixByteCount)
    var spanBytes = bytes.mutableSpan
    var span = unsafe spanBytes.mutableBytes
    pages.encode(into: &span)
    return bytes
  }

  private func admitted(_ bytes: [UInt8], on role: ConnectionRole = .bulk) throws -> WireError? {
    let gate = FrameGate.session(
      from: .source, on: role, session: sampleSession, layout: try sampleLayout())
    return wireError { () throws(WireError) in _ = try gate.next(in: bytes.rawBytes) }
  }

  /// Made by a separate program from the tables in `Documentation/protocol.md`.
  @Test func theBytesAreThese() {
    let bytes = frame(prefix(PackedPages(.zstd, contentsChecksum: 0x1122_3344)), [1, 2, 3])
    let hexadecimal = bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    #expect(
      hexadecimal == """
        290c00000d0c0b0a10000000020000000b00000005000000a72032e14befe269\
        0200000044332211010203
        """)
  }

  @Test(arguments: PageEncoding.allCases)
  func whatIsWrittenIsRead(encoding: PageEncoding) throws {
    let pages = PackedPages(encoding, contentsChecksum: 0xDEAD_BEEF)
    let bytes = frame(prefix(pages), [7])
    #expect(try admitted(bytes) == nil)
    let payload = Array(bytes[32...])
    #expect(try PackedPages(decoding: payload.rawBytes, of: .seedPages) == pages)
  }

  /// Of seeds alone.
  @Test func aDeltaIsReadAsOne() throws {
    let bytes = prefix(PackedPages(.lz4, contentsChecksum: 1, isDelta: true))
    #expect(bytes == [1, 1, 0, 0, 1, 0, 0, 0])
    #expect(try PackedPages(decoding: bytes.rawBytes, of: .seedPages).isDelta)
    let other = [1, 2] + bytes[2...]
    let error = wireError { () throws(WireError) in
      _ = try PackedPages(decoding: Array(other).rawBytes, of: .seedPages)
    }
    #expect(error == .notZero(.seedPages, .reserved))
  }

  @Test func whatHasNoMeaningIsRefused() {
    func error(_ prefix: [UInt8]) -> WireError? {
      wireError { () throws(WireError) in
        _ = try PackedPages(decoding: prefix.rawBytes, of: .pages)
      }
    }
    let checksum: [UInt8] = [1, 2, 3, 4]
    #expect(error([0, 0, 0, 0] + checksum) == .value(.pages, .encoding, found: 0))
    #expect(error([3, 0, 0, 0] + checksum) == .value(.pages, .encoding, found: 3))
    for reserved in [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]] as [[UInt8]] {
      #expect(error(reserved + checksum) == .notZero(.pages, .reserved))
    }
  }

  /// At least one byte of contents, and less than the pages; on bulk alone, and never demanded.
  @Test func theFrameKeepsItsBounds() throws {
    let start = prefix(PackedPages(.lz4, contentsChecksum: 1))
    #expect(try admitted(frame(start, [UInt8](repeating: 1, count: 8183))) == nil)
    #expect(
      try admitted(frame(start, [UInt8](repeating: 1, count: 8184)))
        == .payloadMismatch(.seedPages, found: 8192, expected: 8192))
    var header = Self.plain
    header.type = .pages
    let pages = frame(start, [1], header)
    #expect(try admitted(pages) == nil)
    #expect(
      try admitted(pages, on: .urgent) == .flags(.pages, FrameFlags.packed.rawValue))
    let demanded = withHeaderChecksum(storing(UInt8(14), at: 1, in: pages))
    #expect(try admitted(demanded) == .flags(.pages, FrameFlags.packed.rawValue))
    let empty = withHeaderChecksum(storing(UInt32(8), at: 16, in: pages))
    #expect(
      try admitted(empty)
        == .payloadByteCount(
          .pages, found: 8, allowed: 9...WireLimits.maximumPagePayloadByteCount - 1))
  }

  @Test func pagesThatCameOutOtherwiseAreRefused() throws {
    let pages: [UInt8] = [1, 2, 3]
    let packed = PackedPages(.lz4, contentsChecksum: CRC32C.checksum(of: pages.rawBytes))
    try packed.verify(pages.rawBytes, of: .pages)
    let other: [UInt8] = [1, 2, 4]
    let error = wireError { () throws(WireError) in
      try packed.verify(other.rawBytes, of: .pages)
    }
    #expect(
      error
        == .value(
          .pages, .contentsChecksum, found: UInt64(CRC32C.checksum(of: other.rawBytes))))
  }
}
