internal import Codec
internal import Pages
internal import System
internal import Wire

/// Packs the pages of one bulk connection's frames, each into memory of its own.
struct FramePacker: ~Copyable {
  private static let bodyOffset = WireLimits.headerByteCount + WireLimits.packedPrefixByteCount
  private var packer = PagePacker()
  private var buffer: PageBuffer

  /// For frames of at most so many bytes of pages.
  init(largestByteCount: Int) throws(SystemError) {
    buffer = try PageBuffer(byteCount: Self.bodyOffset + largestByteCount)
  }

  /// The frame of a segment of contents that was loaded, packed; nil when packing saves less than
  /// an eighth: that is not worth the unpacking. Where it lies, for `bytes`.
  mutating func makeFrame(
    _ loader: borrowing RunLoader, _ segment: RunSegment, for purpose: PagePurpose,
    sequence: UInt32, as encoding: PageEncoding
  ) -> Range<Int>? {
    let pages = loader.pageBytes(segment)
    let header = loader.plainHeader(segment, for: purpose, sequence: sequence)
    let limit = pages.byteCount - pages.byteCount / 8
    let room = Self.bodyOffset..<Self.bodyOffset + limit - WireLimits.packedPrefixByteCount
    guard let byteCount = Self.pack(pages, as: encoding, into: &buffer, room, by: &packer) else {
      return nil
    }
    let prefix = PackedPages(encoding, contentsChecksum: CRC32C.checksum(of: pages))
    let end = Self.bodyOffset + byteCount
    var prefixRoom = buffer.mutableBytes(WireLimits.headerByteCount..<Self.bodyOffset)
    prefix.encode(into: &prefixRoom)
    let checksum =
      loader.hasChecksums
      ? CRC32C.checksum(of: buffer.bytes(WireLimits.headerByteCount..<end)) : nil
    var headerRoom = buffer.mutableBytes(0..<WireLimits.headerByteCount)
    header.packed(byteCount: end - WireLimits.headerByteCount, checksum: checksum)
      .encode(into: &headerRoom)
    return 0..<end
  }

  // A span of one property and a change of another: apart from `self` they exclude each other not.
  private static func pack(
    _ pages: RawSpan, as encoding: PageEncoding, into buffer: inout PageBuffer,
    _ range: Range<Int>, by packer: inout PagePacker
  ) -> Int? {
    var room = buffer.mutableBytes(range)
    return packer.pack(pages, as: encoding, into: &room)
  }

  /// The bytes of a frame that was made; valid until the next one is.
  @_lifetime(borrow self)
  borrowing func bytes(_ frame: Range<Int>) -> RawSpan { buffer.bytes(frame) }
}
