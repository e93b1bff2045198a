internal import Codec
public import Pages

/// The 32 bytes in front of each frame.
///
/// ```
///  0 type u8 · 1 flags u8 · 2 region u16 · 4 session short id u32 · 8 page index u32
/// 12 page count u32 · 16 payload byte count u32 · 20 sequence u32 · 24 payload CRC-32C u32
/// 28 CRC-32C of bytes 0..<28 u32                                      (all little-endian)
/// ```
///
/// A value of this type that came from `init(decoding:)` is well formed in itself; whether the
/// image has the pages that it names is the second step, `validate(against:)`, to be done before
/// the payload is read.
@frozen
public struct FrameHeader: Hashable, Sendable {
  /// What the frame is.
  public var type: FrameType
  /// Its flags; a subset of `type.allowedFlags`.
  public var flags: FrameFlags
  /// `SessionID.shortID`; 0 while there is no session.
  public var session: UInt32
  /// The pages that the frame is about; region 0, page 0, no pages where `!type.namesPages`.
  public var run: PageRun
  /// Bytes that follow the header.
  public var payloadByteCount: Int
  /// In a request a number that the destination chooses, repeated by every frame that answers it.
  /// In a pushed page frame the sender's own count. Zero in all other frames.
  public var sequence: UInt32
  /// CRC-32C of the payload if `flags` say that there is one, else 0.
  public var payloadChecksum: UInt32

  /// A header with all its parts; the functions in `FrameHeader+Make.swift` are easier to use.
  @inlinable
  public init(
    type: FrameType, flags: FrameFlags = [], session: UInt32,
    run: PageRun = PageRun(
      region: RegionIndex(rawValue: 0), start: PageIndex(rawValue: 0), count: .zero),
    payloadByteCount: Int = 0, sequence: UInt32 = 0, payloadChecksum: UInt32 = 0
  ) {
    self.type = type
    self.flags = flags
    self.session = session
    self.run = run
    self.payloadByteCount = payloadByteCount
    self.sequence = sequence
    self.payloadChecksum = payloadChecksum
  }
}

// MARK: Encoding

extension FrameHeader {
  /// Writes the header into the first 32 bytes of `bytes`. Allocates nothing.
  ///
  /// The caller's own fields must fit (a page index and a count below 2^32, a payload within its
  /// type's bounds): anything else is a bug of ours and stops the process.
  public func encode(into bytes: inout MutableRawSpan) {
    let (first, second, third, fourth) = words()
    bytes.storeLittleEndian(first, at: 0)
    bytes.storeLittleEndian(second, at: 8)
    bytes.storeLittleEndian(third, at: 16)
    bytes.storeLittleEndian(fourth, at: 24)
    bytes.storeLittleEndian(
      CRC32C.checksum(ofFirst: Offset.headerChecksum, in: bytes), at: Offset.headerChecksum)
  }

  /// Appends the header's 32 bytes to an array; for frames that are rare.
  public func appendEncoded(to bytes: inout [UInt8]) {
    let start = bytes.count
    let (first, second, third, fourth) = words()
    bytes.appendLittleEndian(first)
    bytes.appendLittleEndian(second)
    bytes.appendLittleEndian(third)
    bytes.appendLittleEndian(UInt32(truncatingIfNeeded: fourth))
    let checksum = CRC32C.checksum(
      of: bytes.rawBytes.extracting(start..<start + Offset.headerChecksum))
    bytes.appendLittleEndian(checksum)
  }

  /// The header as four little-endian words, the last one's upper half (the checksum) zero.
  private func words() -> (UInt64, UInt64, UInt64, UInt64) {
    invariant(
      run.start.rawValue <= UInt64(UInt32.max) && run.count.rawValue <= UInt64(UInt32.max),
      "the pages of a frame fit the header's 32-bit fields")
    invariant(
      type.payloadByteCounts(flags).contains(payloadByteCount), "a payload keeps its type's bounds")
    invariant(flags.isSubset(of: type.allowedFlags), "a frame carries flags of its type only")
    return (
      UInt64(type.rawValue) | UInt64(flags.rawValue) << 8 | UInt64(run.region.rawValue) << 16
        | UInt64(session) << 32,
      run.start.rawValue | run.count.rawValue << 32,
      UInt64(payloadByteCount) | UInt64(sequence) << 32,
      UInt64(payloadChecksum)
    )
  }

  enum Offset {
    static let type = 0
    static let flags = 1
    static let region = 2
    static let session = 4
    static let pageIndex = 8
    static let pageCount = 12
    static let payloadByteCount = 16
    static let sequence = 20
    static let payloadChecksum = 24
    static let headerChecksum = 28
  }
}

// MARK: Decoding

extension FrameHeader {
  /// Reads and checks the first 32 bytes of `bytes`, which must be there. Allocates nothing.
  ///
  /// Checked are: checksum, type, flags, payload size against the type's bounds and against the
  /// number of pages, and that fields without meaning are zero.
  public init(decoding bytes: RawSpan) throws(WireError) {
    invariant(
      bytes.byteCount >= WireLimits.headerByteCount, "a header is decoded once all of it is here")
    let found: UInt32 = bytes.loadLittleEndian(at: Offset.headerChecksum)
    let computed = CRC32C.checksum(of: bytes.extracting(first: Offset.headerChecksum))
    guard found == computed else { throw .headerChecksum(found: found, computed: computed) }
    let number: UInt8 = bytes.loadLittleEndian(at: Offset.type)
    guard let type = FrameType(rawValue: number) else { throw .unknownType(number) }
    self.init(
      type: type,
      flags: FrameFlags(rawValue: bytes.loadLittleEndian(at: Offset.flags)),
      session: bytes.loadLittleEndian(at: Offset.session),
      run: PageRun(
        region: RegionIndex(rawValue: bytes.loadLittleEndian(at: Offset.region)),
        start: PageIndex(
          rawValue: UInt64(bytes.loadLittleEndian(at: Offset.pageIndex, as: UInt32.self))),
        count: PageCount(
          rawValue: UInt64(bytes.loadLittleEndian(at: Offset.pageCount, as: UInt32.self)))),
      payloadByteCount: Int(
        bytes.loadLittleEndian(at: Offset.payloadByteCount, as: UInt32.self)),
      sequence: bytes.loadLittleEndian(at: Offset.sequence),
      payloadChecksum: bytes.loadLittleEndian(at: Offset.payloadChecksum))
    try checkShape()
  }

  /// What can be judged without the image.
  private func checkShape() throws(WireError) {
    let foreignFlags = flags.subtracting(type.allowedFlags)
    guard foreignFlags.isEmpty else { throw .flags(type, foreignFlags.rawValue) }
    // Whoever waits for a page is not to wait for its unpacking.
    guard !flags.isSuperset(of: [.packed, .demanded]) else {
      throw .flags(type, FrameFlags.packed.rawValue)
    }
    let allowed = type.payloadByteCounts(flags)
    guard allowed.contains(payloadByteCount) else {
      throw .payloadByteCount(type, found: payloadByteCount, allowed: allowed)
    }
    guard flags.contains(.hasPayloadChecksum) || payloadChecksum == 0 else {
      throw .notZero(type, .payloadChecksum)
    }
    guard type.namesPages else {
      guard run.region.rawValue == 0 else { throw .notZero(type, .region) }
      guard run.start.rawValue == 0 else { throw .notZero(type, .pageIndex) }
      guard run.count.rawValue == 0 else { throw .notZero(type, .pageCount) }
      guard sequence == 0 else { throw .notZero(type, .sequence) }
      return
    }
    guard run.count.rawValue > 0, run.count.rawValue <= UInt64(WireLimits.maximumRunPageCount)
    else { throw .value(type, .pageCount, found: run.count.rawValue) }
  }
}

// MARK: Checks that need more than the header

extension FrameHeader {
  /// Second step, before the payload is read: the image has these pages, one frame may carry that
  /// many of them, and the payload is exactly as long as they are. Frames without pages pass.
  @inlinable
  public func validate(against layout: ImageLayout) throws(WireError) {
    guard type.namesPages else { return }
    guard let region = layout.region(run.region), layout.contains(run) else {
      throw .unknownPages(type, run)
    }
    guard run.count <= WireLimits.maximumRunPageCount(of: region.pageSize) else {
      throw .value(type, .pageCount, found: run.count.rawValue)
    }
    guard type == .pages || type == .seedPages else { return }
    let expected = Int(run.count.byteCount(of: region.pageSize).rawValue)
    let isPacked = flags.contains(.packed)
    guard isPacked ? payloadByteCount < expected : payloadByteCount == expected else {
      throw .payloadMismatch(type, found: payloadByteCount, expected: expected)
    }
  }

  /// Last step: the payload is what the sender checksummed. Passes when there is no checksum (TLS
  /// below vouches for the bytes).
  public func verify(payload: RawSpan) throws(WireError) {
    invariant(
      payload.byteCount == payloadByteCount, "a payload is verified once all of it is here")
    guard flags.contains(.hasPayloadChecksum) else { return }
    let computed = CRC32C.checksum(of: payload)
    guard computed == payloadChecksum else {
      throw .payloadChecksum(type, found: payloadChecksum, computed: computed)
    }
  }
}
