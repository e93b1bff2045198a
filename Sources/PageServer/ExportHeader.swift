internal import Codec
public import Pages
public import Wire

/// What an export file says about itself: whose memory it holds, and what was proven about the
/// hand-off when it was written.
public struct ExportHeader: Hashable, Sendable {
  /// The VM.
  public var vmName: String
  /// The session that moved it.
  public var session: SessionID
  /// The source's epoch before the hand-off.
  public var epoch: Epoch
  /// How the migration is done.
  public var mode: MigrationMode
  /// What the source's journal proved.
  public var proof: ExportProof
  /// When it was written, for people.
  public var createdAt: String
  /// The image as the source sees it.
  public var layout: ImageLayout
  /// Its pages by kind.
  public var counts: ExportCounts
  /// Bytes of page content.
  public var contentByteCount: UInt64
  /// Whether nobody without the token can read it.
  public var isEncrypted: Bool
  var salt: [UInt8]
  var tokenCheck: [UInt8]

  /// The destination's epoch: the one that the hand-off opened.
  public var handedOffEpoch: Epoch { epoch.advanced(by: 1) }

  var geometry: ExportGeometry { ExportGeometry(layout) }
  var contentChunkCount: UInt64 { ExportGeometry.chunkCount(ofContent: contentByteCount) }

  /// Bytes in front of the first chunk.
  var byteCount: Int { Self.byteCount(regionCount: layout.regions.count) }

  /// Bytes of the whole file.
  public var fileByteCount: UInt64 {
    UInt64(byteCount)
      + (geometry.indexChunkCount + contentChunkCount) * UInt64(ExportFormat.chunkByteCount)
      + UInt64(ExportFormat.trailerByteCount)
  }

  static func byteCount(regionCount: Int) -> Int {
    let used =
      ExportFormat.fixedHeaderByteCount + regionCount * ExportFormat.regionByteCount
      + ExportFormat.headerSealByteCount
    let block = ExportFormat.headerBlockByteCount
    // Rounded up to whole blocks.
    return (used + block - 1) / block * block
  }
}

extension ExportHeader {
  /// The header's bytes, without its seal.
  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: byteCount)
    bytes.withMutableRawBytes { span in
      Self.store(ExportFormat.magic, at: 0, in: &span)
      span.storeLittleEndian(ExportFormat.version, at: 8)
      span.storeLittleEndian(UInt32(span.byteCount), at: 12)
      span.storeLittleEndian(fileByteCount, at: 16)
      span.storeLittleEndian(UInt32(isEncrypted ? 1 : 0), at: 24)
      span.storeLittleEndian(UInt32(layout.regions.count), at: 28)
      span.storeLittleEndian(session.high, at: 32)
      span.storeLittleEndian(session.low, at: 40)
      span.storeLittleEndian(epoch.rawValue, at: 48)
      span.storeLittleEndian(handedOffEpoch.rawValue, at: 56)
      span.storeLittleEndian(mode.rawValue, at: 64)
      span.storeLittleEndian(proof.rawValue, at: 65)
      span.storeLittleEndian(UInt16(vmName.utf8.count), at: 66)
      span.storeLittleEndian(UInt32(ExportFormat.chunkPayloadByteCount), at: 68)
      span.storeLittleEndian(contentByteCount, at: 72)
      span.storeLittleEndian(counts.content, at: 80)
      span.storeLittleEndian(counts.zero, at: 88)
      span.storeLittleEndian(counts.poisoned, at: 96)
      span.storeLittleEndian(counts.unheld, at: 104)
      span.storeLittleEndian(geometry.indexChunkCount, at: 112)
      span.storeLittleEndian(contentChunkCount, at: 120)
      Self.store(salt, at: 128, in: &span)
      Self.store(tokenCheck, at: 160, in: &span)
      Self.store(Array(createdAt.utf8), at: 176, in: &span)
      Self.store(Array(vmName.utf8), at: 256, in: &span)
      for (position, region) in layout.regions.enumerated() {
        let start = ExportFormat.fixedHeaderByteCount + position * ExportFormat.regionByteCount
        span.storeLittleEndian(region.imageOffset.rawValue, at: start)
        span.storeLittleEndian(region.byteCount.rawValue, at: start + 8)
        span.storeLittleEndian(region.pageSize.rawValue, at: start + 16)
      }
    }
    return bytes
  }

  /// Reads a header whose checksum holds. nil when it contradicts itself: then it is not one that
  /// `encoded` makes, byte for byte.
  init?(_ bytes: [UInt8]) {
    let span = bytes.rawBytes
    let regionCount = Int(span.loadLittleEndian(at: 28, as: UInt32.self))
    let nameByteCount = Int(span.loadLittleEndian(at: 66, as: UInt16.self))
    guard regionCount <= ImageLayout.maximumRegionCount,
      nameByteCount <= WireLimits.maximumNameByteCount,
      bytes.count == Self.byteCount(regionCount: regionCount),
      let layout = Self.layout(in: bytes, regionCount: regionCount),
      let mode = MigrationMode(rawValue: span.loadLittleEndian(at: 64)),
      let proof = ExportProof(rawValue: span.loadLittleEndian(at: 65)),
      let vmName = String(validating: bytes[256..<256 + nameByteCount], as: UTF8.self),
      let createdAt = String(
        validating: bytes[176..<176 + ExportFormat.timeByteCount], as: UTF8.self)
    else { return nil }
    self.vmName = vmName
    self.createdAt = createdAt
    session = SessionID(
      high: span.loadLittleEndian(at: 32), low: span.loadLittleEndian(at: 40))
    epoch = Epoch(rawValue: span.loadLittleEndian(at: 48))
    self.mode = mode
    self.proof = proof
    self.layout = layout
    var counts = ExportCounts()
    counts.content = span.loadLittleEndian(at: 80)
    counts.zero = span.loadLittleEndian(at: 88)
    counts.poisoned = span.loadLittleEndian(at: 96)
    counts.unheld = span.loadLittleEndian(at: 104)
    self.counts = counts
    contentByteCount = span.loadLittleEndian(at: 72)
    isEncrypted = span.loadLittleEndian(at: 24, as: UInt32.self) & 1 == 1
    salt = Array(bytes[128..<128 + ExportFormat.saltByteCount])
    tokenCheck = Array(bytes[160..<160 + ExportFormat.tokenCheckByteCount])
    // The limits keep the sums below from overflowing, and a journal that the file's epochs are
    // written to from being unreadable.
    guard epoch.rawValue < WireLimits.maximumEpoch,
      contentByteCount <= layout.totalByteCount.rawValue,
      [counts.content, counts.zero, counts.poisoned, counts.unheld].allSatisfy({
        $0 <= layout.totalPageCount.rawValue
      }),
      counts.total == layout.totalPageCount.rawValue,
      bytes[(bytes.count - 16)..<(bytes.count - 4)].allSatisfy({ $0 == 0 }),
      // Every other field, and all that is reserved, follows from those above.
      encoded().dropLast(ExportFormat.headerSealByteCount)
        == bytes.dropLast(ExportFormat.headerSealByteCount)
    else { return nil }
  }

  private static func layout(in bytes: [UInt8], regionCount: Int) -> ImageLayout? {
    let span = bytes.rawBytes
    var regions: [Region] = []
    for position in 0..<regionCount {
      let start = ExportFormat.fixedHeaderByteCount + position * ExportFormat.regionByteCount
      guard let size = PageSize(rawValue: span.loadLittleEndian(at: start + 16)) else {
        return nil
      }
      regions.append(
        Region(
          index: RegionIndex(position),
          imageOffset: ByteCount(rawValue: span.loadLittleEndian(at: start)),
          byteCount: ByteCount(rawValue: span.loadLittleEndian(at: start + 8)), pageSize: size))
    }
    return try? ImageLayout(regions)
  }

  @_lifetime(span: copy span)
  private static func store(_ bytes: [UInt8], at offset: Int, in span: inout MutableRawSpan) {
    for (position, byte) in bytes.enumerated() {
      span.storeLittleEndian(byte, at: offset + position)
    }
  }
}
