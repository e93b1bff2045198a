public import Codec

/// What stands before packed pages in the payload of a `pages` or `seedPages` frame.
///
/// ```
/// 0 encoding u8 · 1 delta u8 · 2 reserved u16 · 4 CRC-32C of the pages u32 · 8 what the encoding
/// has made
/// ```
///
/// A delta (1; else 0) is of seeds alone: what was packed is the pages XOR the seeds of them that
/// came last.
///
/// The checksum is of the pages as they are to be once they are unpacked: it stands under TLS as
/// well, since what it guards against is not the link but our own packing.
@frozen
public struct PackedPages: Hashable, Sendable {
  /// What has packed them.
  public var encoding: PageEncoding
  /// CRC-32C of the pages.
  public var contentsChecksum: UInt32
  /// What was packed is what has changed of the pages since they came last.
  public var isDelta: Bool

  /// A prefix with all its parts.
  @inlinable
  public init(_ encoding: PageEncoding, contentsChecksum: UInt32, isDelta: Bool = false) {
    self.encoding = encoding
    self.contentsChecksum = contentsChecksum
    self.isDelta = isDelta
  }

  /// Reads the front of a payload, which has room for a prefix: its frame was admitted.
  public init(decoding payload: RawSpan, of type: FrameType) throws(WireError) {
    let word: UInt32 = payload.loadLittleEndian(at: 0)
    guard let encoding = PageEncoding(rawValue: UInt8(truncatingIfNeeded: word)) else {
      throw .value(type, .encoding, found: UInt64(word & 0xff))
    }
    let isDelta = word >> 8 == 1
    // A page that is no seed was never there before.
    guard word >> 8 == 0 || isDelta && type == .seedPages else { throw .notZero(type, .reserved) }
    self.init(encoding, contentsChecksum: payload.loadLittleEndian(at: 4), isDelta: isDelta)
  }

  /// Writes it into the first `WireLimits.packedPrefixByteCount` bytes.
  public func encode(into bytes: inout MutableRawSpan) {
    bytes.storeLittleEndian(UInt32(encoding.rawValue) | (isDelta ? 1 << 8 : 0), at: 0)
    bytes.storeLittleEndian(contentsChecksum, at: 4)
  }

  /// Whether the unpacked pages are those that were packed.
  public func verify(_ pages: RawSpan, of type: FrameType) throws(WireError) {
    let computed = CRC32C.checksum(of: pages)
    guard computed == contentsChecksum else {
      throw .value(type, .contentsChecksum, found: UInt64(computed))
    }
  }
}
