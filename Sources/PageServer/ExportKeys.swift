internal import Codec
internal import Wire

/// The keys of one export file, made of the session's token and the file's own salt: two exports of
/// one session share none, so that no key ever seals two contents under one number.
struct ExportKeys {
  /// Tells a wrong token from a damaged file. Gives nothing away: the token is 256 random bits.
  let tokenCheck: [UInt8]
  /// Seals header and chunks.
  let chunkKey: [UInt8]

  init(token: SessionToken, session: SessionID, salt: [UInt8]) throws(SealError) {
    tokenCheck = try Self.key(
      "postcopy export 1: token check", token, session, salt, ExportFormat.tokenCheckByteCount)
    chunkKey = try Self.key(
      "postcopy export 1: chunks", token, session, salt, SealedChunks.keyByteCount)
  }

  private static func key(
    _ purpose: String, _ token: SessionToken, _ session: SessionID, _ salt: [UInt8],
    _ byteCount: Int
  ) throws(SealError) -> [UInt8] {
    var bound = Array(purpose.utf8)
    bound.appendLittleEndian(session.high)
    bound.appendLittleEndian(session.low)
    return try KeyDerivation.hkdfSHA256(
      secret: token.bytes, salt: salt, purpose: bound, byteCount: byteCount)
  }
}

/// The 32 bytes behind a chunk's content: tag, number, flags, checksum of all before it.
struct ExportChunkSeal {
  static let lastFlag: UInt32 = 1

  let tag: SealTag
  let number: UInt64
  let isLast: Bool

  /// Writes the seal behind the content of a whole chunk.
  static func store(_ seal: ExportChunkSeal, in chunk: inout [UInt8]) {
    let start = ExportFormat.chunkPayloadByteCount
    chunk.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(seal.tag.low, at: start)
      bytes.storeLittleEndian(seal.tag.high, at: start + 8)
      bytes.storeLittleEndian(seal.number, at: start + 16)
      bytes.storeLittleEndian(seal.isLast ? lastFlag : 0, at: start + 24)
      let checksum = CRC32C.checksum(ofFirst: start + 28, in: bytes)
      bytes.storeLittleEndian(checksum, at: start + 28)
    }
  }

  /// Reads the seal of a whole chunk; nil when checksum, number or flag are not those expected.
  init?(of chunk: RawSpan, number: UInt64, isLast: Bool) {
    let start = ExportFormat.chunkPayloadByteCount
    let checksum: UInt32 = chunk.loadLittleEndian(at: start + 28)
    guard checksum == CRC32C.checksum(of: chunk.extracting(0..<start + 28)),
      chunk.loadLittleEndian(at: start + 16) == number,
      chunk.loadLittleEndian(at: start + 24) == (isLast ? Self.lastFlag : 0)
    else { return nil }
    tag = SealTag(
      low: chunk.loadLittleEndian(at: start), high: chunk.loadLittleEndian(at: start + 8))
    self.number = number
    self.isLast = isLast
  }

  init(tag: SealTag, number: UInt64, isLast: Bool) {
    self.tag = tag
    self.number = number
    self.isLast = isLast
  }
}
