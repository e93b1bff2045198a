internal import Codec
internal import Pages
internal import System
internal import Wire

/// Packs the pages of one bulk connection's frames, each into memory of its own.
struct FramePacker: ~Copyable {
  private static let bodyOffset = WireLimits.headerByteCount + WireLimits.packedPrefixByteCount
  private var packer = PagePacker()
  private var buffer: PageBuffer
  /// What has changed of pages.
  private var delta: PageBuffer

  /// For frames of at most so many bytes of pages.
  init(largestByteCount: Int) throws(SystemError) {
    let buffer = try PageBuffer(byteCount: Self.bodyOffset + largestByteCount)
    let delta = try PageBuffer(byteCount: largestByteCount)
    self.buffer = buffer
    self.delta = delta
  }

  /// The frame of a segment of contents that was loaded, packed; nil when packing saves less than
  /// an eighth: that is not worth the unpacking. Where it lies, for `bytes`.
  mutating func makeFrame(
    _ loader: borrowing RunLoader, _ segment: RunSegment, for purpose: PagePurpose,
    sequence: UInt32, as encoding: PageEncoding
  ) -> Range<Int>? {
    let pages = loader.pageBytes(segment)
    let room = Self.room(for: pages)
    guard let byteCount = Self.pack(pages, as: encoding, into: &buffer, room, by: &packer) else {
      return nil
    }
    let prefix = PackedPages(encoding, contentsChecksum: CRC32C.checksum(of: pages))
    let header = loader.plainHeader(segment, for: purpose, sequence: sequence)
    return finish(header, prefix, byteCount, hasChecksum: loader.hasChecksums)
  }

  /// The frame of a segment of seeds that was loaded, as what has changed of them since they were
  /// sent last, packed; nil when that is not known any more, or saves less than an eighth.
  mutating func makeDeltaFrame(
    _ loader: borrowing RunLoader, _ segment: RunSegment, since cache: DeltaCache,
    sequence: UInt32, as encoding: PageEncoding
  ) -> Range<Int>? {
    let pages = loader.pageBytes(segment)
    let flat = loader.flatRange(of: segment)
    let changes = 0..<pages.byteCount
    guard Self.write(cache, flat, pages, to: &delta, changes),
      let byteCount = Self.pack(
        delta, changes, as: encoding, into: &buffer, Self.room(for: pages), by: &packer)
    else { return nil }
    let prefix = PackedPages(
      encoding, contentsChecksum: CRC32C.checksum(of: pages), isDelta: true)
    let header = loader.plainHeader(segment, for: .seed, sequence: sequence)
    return finish(header, prefix, byteCount, hasChecksum: loader.hasChecksums)
  }

  private static func room(for pages: RawSpan) -> Range<Int> {
    let limit = pages.byteCount - pages.byteCount / 8
    return bodyOffset..<bodyOffset + limit - WireLimits.packedPrefixByteCount
  }

  /// Puts the front of a frame before what was packed.
  private mutating func finish(
    _ header: FrameHeader, _ prefix: PackedPages, _ byteCount: Int, hasChecksum: Bool
  ) -> Range<Int> {
    let end = Self.bodyOffset + byteCount
    var prefixRoom = buffer.mutableBytes(WireLimits.headerByteCount..<Self.bodyOffset)
    prefix.encode(into: &prefixRoom)
    let checksum =
      hasChecksum
      ? CRC32C.checksum(of: buffer.bytes(WireLimits.headerByteCount..<end)) : nil
    var headerRoom = buffer.mutableBytes(0..<WireLimits.headerByteCount)
    header.packed(byteCount: end - WireLimits.headerByteCount, checksum: checksum)
      .encode(into: &headerRoom)
    return 0..<end
  }

  // Spans of one property and changes of another: apart from `self` they exclude each other not.
  private static func pack(
    _ pages: RawSpan, as encoding: PageEncoding, into buffer: inout PageBuffer,
    _ range: Range<Int>, by packer: inout PagePacker
  ) -> Int? {
    var room = buffer.mutableBytes(range)
    return packer.pack(pages, as: encoding, into: &room)
  }

  private static func pack(
    _ delta: borrowing PageBuffer, _ changes: Range<Int>, as encoding: PageEncoding,
    into buffer: inout PageBuffer, _ range: Range<Int>, by packer: inout PagePacker
  ) -> Int? {
    pack(delta.bytes(changes), as: encoding, into: &buffer, range, by: &packer)
  }

  private static func write(
    _ cache: DeltaCache, _ pages: Range<Int>, _ contents: RawSpan, to delta: inout PageBuffer,
    _ range: Range<Int>
  ) -> Bool {
    var room = delta.mutableBytes(range)
    return cache.writeDelta(of: pages, contents, to: &room)
  }

  /// The bytes of a frame that was made; valid until the next one is.
  @_lifetime(borrow self)
  borrowing func bytes(_ frame: Range<Int>) -> RawSpan { buffer.bytes(frame) }
}
