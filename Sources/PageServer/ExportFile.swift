internal import Codec
internal import Glibc
internal import Pages
internal import System
public import Wire

/// An export file, opened and checked as far as it goes without reading its pages.
public final class ExportFile: Sendable {
  /// Its name.
  public let path: String
  /// What it says about itself. Proven only with the token.
  public let header: ExportHeader
  let status: FileStatus
  let geometry: ExportGeometry
  /// nil without a token: then the file can be inspected and not served.
  let chunkKey: [UInt8]?
  private let descriptor: OwnedDescriptor

  /// Opens the file. With the token of its session, the header is proven to be what was sealed.
  public static func open(
    _ path: String, token: SessionToken?
  ) throws(ExportError) -> ExportFile {
    let descriptor = try ExportOpening.open(path)
    let status = try ExportOpening.status(of: descriptor)
    guard status.isRegularFile else { throw .notAFile(path: path) }
    let bytes = try ExportOpening.headerBytes(of: descriptor, path, status)
    let header = try ExportOpening.header(bytes, path, status)
    try ExportOpening.checkPermissions(header, path, status)
    try ExportOpening.checkTrailer(of: descriptor, header, bytes, path)
    let key = try token.map { (token) throws(ExportError) in
      try ExportOpening.key(header, bytes, token, path)
    }
    return ExportFile(
      path: path, header: header, status: status, chunkKey: key, descriptor: descriptor)
  }

  private init(
    path: String, header: ExportHeader, status: FileStatus, chunkKey: [UInt8]?,
    descriptor: consuming OwnedDescriptor
  ) {
    self.path = path
    self.header = header
    self.status = status
    self.chunkKey = chunkKey
    self.descriptor = descriptor
    geometry = header.geometry
  }

  /// How many chunks it has.
  var chunkCount: UInt64 { geometry.indexChunkCount + header.contentChunkCount }

  func part(ofChunk number: UInt64) -> ExportPart {
    number < geometry.indexChunkCount ? .index : .pages
  }

  func offset(ofChunk number: UInt64) -> UInt64 {
    UInt64(header.byteCount) + number * UInt64(ExportFormat.chunkByteCount)
  }

  /// Fills a chunk's bytes and checks them by checksum and place. Allocates nothing unless it
  /// fails.
  @_lifetime(bytes: copy bytes)
  func readChunk(
    _ number: UInt64, into bytes: inout MutableRawSpan
  ) throws(ExportError) -> ExportChunkSeal {
    invariant(number < chunkCount, "a chunk that is read lies in the file")
    let start = offset(ofChunk: number)
    var filled = 0
    while filled < bytes.byteCount {
      do throws(Errno) {
        let count = try descriptor.read(
          into: &bytes, from: filled, atOffset: start + UInt64(filled))
        if count == 0 { break }
        filled += count
      } catch { throw .system(SystemError("pread", "\(path) at \(start)", error)) }
    }
    guard filled == bytes.byteCount else {
      throw .truncated(
        path: path, byteCount: start + UInt64(filled), expectedByteCount: header.fileByteCount)
    }
    guard
      let seal = ExportChunkSeal(
        of: bytes.bytes, number: number, isLast: number == chunkCount - 1)
    else {
      throw ZeroScan.isZero(bytes.bytes)
        ? .hole(path: path, part(ofChunk: number), offset: start)
        : .damaged(path: path, part(ofChunk: number), offset: start)
    }
    return seal
  }

  /// Reads the whole file against its checksums and, with the token, its seals and its own counts.
  /// About as fast as the disk. `progress` is told the bytes done after each chunk.
  public func verify(_ progress: (UInt64) -> Void = { _ in }) throws(ExportError) {
    guard chunkKey != nil else {
      var chunk = [UInt8](repeating: 0, count: ExportFormat.chunkByteCount)
      for number in 0..<chunkCount {
        try chunk.withMutableRawBytes { bytes throws(ExportError) in
          _ = try readChunk(number, into: &bytes)
        }
        progress(offset(ofChunk: number + 1))
      }
      return
    }
    let reader = try ExportReader(self)
    var check = ExportIndexCheck(self)
    for block in 0..<geometry.blockCount { try check.add(block, reader) }
    try check.finish()
    for number in geometry.indexChunkCount..<chunkCount {
      try reader.loadPages(chunk: number)
      progress(offset(ofChunk: number + 1))
    }
  }
}

/// The steps of opening, each with its own refusal: what is it at all, is it whole, may others read
/// it, does it belong to the token.
private enum ExportOpening {
  static func open(_ path: String) throws(ExportError) -> OwnedDescriptor {
    do throws(SystemError) {
      // Non-blocking: a pipe of that name must not hang us.
      return try OwnedDescriptor.open(path, flags: O_RDONLY | O_NONBLOCK)
    } catch { throw .system(error) }
  }

  static func status(
    of file: borrowing OwnedDescriptor
  ) throws(ExportError) -> FileStatus {
    do throws(SystemError) {
      return try FileStatus.of(file)
    } catch { throw .system(error) }
  }

  static func headerBytes(
    of file: borrowing OwnedDescriptor, _ path: String, _ status: FileStatus
  ) throws(ExportError) -> [UInt8] {
    let start = try read(file, path, ExportFormat.fixedHeaderByteCount, at: 0)
    let magic = ExportFormat.magic
    guard !start.isEmpty, start.prefix(magic.count).elementsEqual(magic.prefix(start.count))
    else {
      // A file of ours is zeros at its start only when a copy left a hole there.
      throw start.count == ExportFormat.fixedHeaderByteCount && ZeroScan.isZero(start.rawBytes)
        && status.byteCount > UInt64(ExportFormat.trailerByteCount)
        ? .hole(path: path, .header, offset: 0) : .notAnExport(path: path)
    }
    // The first 16 bytes mean the same in every version.
    guard start.count >= 16 else {
      throw .truncated(
        path: path, byteCount: status.byteCount,
        expectedByteCount: UInt64(ExportFormat.headerBlockByteCount))
    }
    let version: UInt32 = start.rawBytes.loadLittleEndian(at: 8)
    guard version == ExportFormat.version else {
      throw .otherVersion(path: path, version: version)
    }
    let byteCount = Int(start.rawBytes.loadLittleEndian(at: 12, as: UInt32.self))
    let limit = ExportHeader.byteCount(regionCount: ImageLayout.maximumRegionCount)
    guard byteCount.isMultiple(of: ExportFormat.headerBlockByteCount), byteCount > 0,
      byteCount <= limit
    else { throw .damaged(path: path, .header, offset: 12) }
    let bytes = try read(file, path, byteCount, at: 0)
    guard bytes.count == byteCount else {
      throw .truncated(
        path: path, byteCount: status.byteCount, expectedByteCount: UInt64(byteCount))
    }
    return bytes
  }

  static func header(
    _ bytes: [UInt8], _ path: String, _ status: FileStatus
  ) throws(ExportError) -> ExportHeader {
    let end = bytes.count - 4
    let checksum: UInt32 = bytes.rawBytes.loadLittleEndian(at: end)
    guard checksum == CRC32C.checksum(of: bytes.rawBytes.extracting(0..<end)) else {
      throw .damaged(path: path, .header, offset: 0)
    }
    guard let header = ExportHeader(bytes) else {
      throw .inconsistent(path: path, reason: "its header is not one that is written")
    }
    guard status.byteCount >= header.fileByteCount else {
      throw .truncated(
        path: path, byteCount: status.byteCount, expectedByteCount: header.fileByteCount)
    }
    guard status.byteCount == header.fileByteCount else {
      throw .tooLong(
        path: path, byteCount: status.byteCount, expectedByteCount: header.fileByteCount)
    }
    return header
  }

  /// Nobody else may read what is not encrypted. root's files are as good as ours.
  static func checkPermissions(
    _ header: ExportHeader, _ path: String, _ status: FileStatus
  ) throws(ExportError) {
    guard !header.isEncrypted else { return }
    guard status.permissions & 0o077 == 0 else {
      throw .notPrivate(path: path, permissions: status.permissions)
    }
    guard status.ownerUser == geteuid() || status.ownerUser == 0 else {
      throw .ownedByOther(path: path, user: status.ownerUser)
    }
  }

  static func checkTrailer(
    of file: borrowing OwnedDescriptor, _ header: ExportHeader, _ bytes: [UInt8],
    _ path: String
  ) throws(ExportError) {
    let offset = header.fileByteCount - UInt64(ExportFormat.trailerByteCount)
    let found = try read(file, path, ExportFormat.trailerByteCount, at: offset)
    guard found == ExportTrailer(header, bytes).bytes else {
      throw ZeroScan.isZero(found.rawBytes)
        ? .hole(path: path, .trailer, offset: offset)
        : .damaged(path: path, .trailer, offset: offset)
    }
  }

  static func key(
    _ header: ExportHeader, _ bytes: [UInt8], _ token: SessionToken, _ path: String
  ) throws(ExportError) -> [UInt8] {
    let keys: ExportKeys
    let isSound: Bool
    do throws(SealError) {
      keys = try ExportKeys(token: token, session: header.session, salt: header.salt)
      isSound = try opens(bytes, keys)
    } catch { throw .seal(error) }
    guard keys.tokenCheck == header.tokenCheck else { throw .otherToken(path: path) }
    guard isSound else { throw .forged(path: path, .header, offset: 0) }
    return keys.chunkKey
  }

  private static func opens(_ header: [UInt8], _ keys: ExportKeys) throws(SealError) -> Bool {
    let end = header.count - ExportFormat.headerSealByteCount
    let tag = SealTag(
      low: header.rawBytes.loadLittleEndian(at: end),
      high: header.rawBytes.loadLittleEndian(at: end + 8))
    var sealed = try SealedChunks(key: keys.chunkKey)
    var content = Array(header[..<end])
    return try content.withMutableRawBytes { span throws(SealError) in
      try sealed.open(
        &span, at: ChunkPlace(kind: ExportFormat.ChunkKind.header, number: 0), tag: tag,
        isEncrypted: false)
    }
  }

  private static func read(
    _ file: borrowing OwnedDescriptor, _ path: String, _ byteCount: Int, at offset: UInt64
  ) throws(ExportError) -> [UInt8] {
    do throws(SystemError) {
      return try file.read(byteCount: byteCount, atOffset: offset, operand: path)
    } catch { throw .system(error) }
  }
}
