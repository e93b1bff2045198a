internal import Codec
internal import Glibc
internal import Pages
internal import System
internal import Wire

/// The file that an export grows in, under a name of its own until it is whole: index and pages are
/// written as they come, with one chunk of each in memory.
struct ExportFileWriter: ~Copyable {
  /// What is put behind the final name while the file is not whole.
  static let partialEnding = ".partial"

  let path: String
  private let partialPath: String
  private let file: OwnedDescriptor
  private var header: ExportHeader
  private let geometry: ExportGeometry
  private var sealed: SealedChunks
  private var index: [UInt8]
  private var blockCount: UInt64 = 0
  private var pages: [UInt8]
  private var filled = 0
  private var pageChunkCount: UInt64 = 0
  private var isPublished = false
  private let expectedByteCount: UInt64

  /// Makes the file. `header` lacks the counts, which come with `finish`; the whole is expected to
  /// have at most `expectedByteCount`.
  static func create(
    _ path: String, header: ExportHeader, keys: ExportKeys, expectedByteCount: UInt64
  ) throws(ExportError) -> ExportFileWriter {
    let sealed: SealedChunks
    do throws(SealError) {
      sealed = try SealedChunks(key: keys.chunkKey)
    } catch { throw .seal(error) }
    // A name that is taken is found before hours of reading; `publish` has the last word.
    if FileSystem.exists(path) { throw .exists(path: path) }
    let partialPath = path + partialEnding
    let file: OwnedDescriptor
    do throws(SystemError) {
      file = try OwnedDescriptor.open(
        partialPath, flags: O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
    } catch {
      throw error.errno == .exists ? .unfinished(path: partialPath) : .system(error)
    }
    return ExportFileWriter(
      path, header: header, sealed: sealed, file: file, expectedByteCount: expectedByteCount)
  }

  private init(
    _ path: String, header: ExportHeader, sealed: consuming SealedChunks,
    file: consuming OwnedDescriptor, expectedByteCount: UInt64
  ) {
    self.path = path
    partialPath = path + Self.partialEnding
    self.header = header
    self.sealed = sealed
    self.file = file
    self.expectedByteCount = expectedByteCount
    geometry = header.geometry
    index = [UInt8](repeating: 0, count: ExportFormat.chunkByteCount)
    pages = index
  }

  // What is not whole leaves nothing behind.
  deinit {
    if !isPublished { try? FileSystem.removeFile(partialPath) }
  }

  /// Where the next page's content will be, counted in bytes of pages.
  var contentByteCount: UInt64 {
    pageChunkCount * UInt64(ExportFormat.chunkPayloadByteCount) + UInt64(filled)
  }

  /// Adds an index block; they come in the order of the image.
  mutating func append(block: [UInt8]) throws(ExportError) {
    invariant(block.count == ExportFormat.indexBlockByteCount, "an index block has 512 bytes")
    let place = Int(blockCount % UInt64(ExportFormat.indexBlockCountOfChunk))
    // The chunk before is full, and not the last of the file: this one follows.
    if place == 0, blockCount > 0 { try sealIndex(isLast: false) }
    index.withMutableRawBytes { bytes in
      bytes.copyBytes(of: block.rawBytes, at: place * ExportFormat.indexBlockByteCount)
    }
    blockCount += 1
  }

  private mutating func sealIndex(isLast: Bool) throws(ExportError) {
    let number = (blockCount - 1) / UInt64(ExportFormat.indexBlockCountOfChunk)
    try Self.seal(&index, number: number, isLast: isLast, header, &sealed)
    try write(index, number: number)
    Self.clear(&index)
  }

  /// Adds the content of pages.
  mutating func append(content: RawSpan) throws(ExportError) {
    var done = 0
    while done < content.byteCount {
      if filled == ExportFormat.chunkPayloadByteCount { try sealPages(isLast: false) }
      let count = min(content.byteCount - done, ExportFormat.chunkPayloadByteCount - filled)
      let start = filled
      pages.withMutableRawBytes { bytes in
        bytes.copyBytes(of: content.extracting(done..<done + count), at: start)
      }
      filled += count
      done += count
    }
  }

  private mutating func sealPages(isLast: Bool) throws(ExportError) {
    let number = geometry.indexChunkCount + pageChunkCount
    try Self.seal(&pages, number: number, isLast: isLast, header, &sealed)
    try write(pages, number: number)
    Self.clear(&pages)
    pageChunkCount += 1
    filled = 0
  }

  /// Writes what is left, header and trailer, makes the file durable, and gives it its name.
  mutating func finish(_ counts: ExportCounts) throws(ExportError) -> ExportHeader {
    invariant(blockCount == geometry.blockCount, "every page of the image is in the index")
    header.counts = counts
    header.contentByteCount = contentByteCount
    try sealIndex(isLast: header.contentChunkCount == 0)
    if filled > 0 { try sealPages(isLast: true) }
    let encoded = try sealedHeader()
    do throws(SystemError) {
      let end = header.fileByteCount - UInt64(ExportFormat.trailerByteCount)
      try file.writeAll(
        ExportTrailer(header, encoded).bytes, atOffset: end, operand: partialPath)
      try file.writeAll(encoded, atOffset: 0, operand: partialPath)
      try file.synchronize(operand: partialPath)
      try FileSystem.publish(partialPath, as: path)
    } catch {
      throw failure(error)
    }
    isPublished = true
    return header
  }

  private mutating func sealedHeader() throws(ExportError) -> [UInt8] {
    var encoded = header.encoded()
    let end = encoded.count - ExportFormat.headerSealByteCount
    let tag: SealTag
    do throws(SealError) {
      var content = Array(encoded[..<end])
      tag = try content.withMutableRawBytes { bytes throws(SealError) in
        try sealed.seal(
          &bytes, at: ChunkPlace(kind: ExportFormat.ChunkKind.header, number: 0),
          encrypting: false)
      }
    } catch { throw .seal(error) }
    encoded.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(tag.low, at: end)
      bytes.storeLittleEndian(tag.high, at: end + 8)
      let checksum = CRC32C.checksum(ofFirst: bytes.byteCount - 4, in: bytes)
      bytes.storeLittleEndian(checksum, at: bytes.byteCount - 4)
    }
    return encoded
  }

  private static func seal(
    _ chunk: inout [UInt8], number: UInt64, isLast: Bool, _ header: ExportHeader,
    _ sealed: inout SealedChunks
  ) throws(ExportError) {
    let place = ChunkPlace(
      kind: ExportFormat.ChunkKind.content, number: number, isLast: isLast)
    let tag: SealTag
    do throws(SealError) {
      tag = try chunk.withMutableRawBytes { bytes throws(SealError) in
        var content = bytes._mutatingExtracting(0..<ExportFormat.chunkPayloadByteCount)
        return try sealed.seal(&content, at: place, encrypting: header.isEncrypted)
      }
    } catch { throw .seal(error) }
    ExportChunkSeal.store(
      ExportChunkSeal(tag: tag, number: number, isLast: isLast), in: &chunk)
  }

  private func write(_ chunk: [UInt8], number: UInt64) throws(ExportError) {
    do throws(SystemError) {
      try file.writeAll(
        chunk, atOffset: UInt64(header.byteCount) + number * UInt64(ExportFormat.chunkByteCount),
        operand: partialPath)
    } catch { throw failure(error) }
  }

  private static func clear(_ chunk: inout [UInt8]) {
    chunk.withMutableRawBytes { $0.clearBytes(0..<$0.byteCount) }
  }

  private func failure(_ error: SystemError) -> ExportError {
    switch error.errno {
    case .noSpace, .quotaExceeded, .fileTooLarge:
      // What was written so far is given back, and then counts as free.
      try? file.setByteCount(0, operand: partialPath)
      let free = (try? FileSystem.availableByteCount(FileSystem.directory(of: path))) ?? 0
      return .noSpace(
        path: path, neededByteCount: expectedByteCount, availableByteCount: free)
    case .exists: return .exists(path: path)
    default: return .system(error)
    }
  }
}

/// The last bytes of the file: without them it is cut off.
struct ExportTrailer: Hashable {
  let bytes: [UInt8]

  /// The trailer of a file with that header, given with its seal.
  init(_ header: ExportHeader, _ encodedHeader: [UInt8]) {
    var bytes = ExportFormat.trailerMagic
    bytes.appendLittleEndian(ExportFormat.version)
    bytes.append(contentsOf: encodedHeader.suffix(4))
    bytes.appendLittleEndian(header.session.high)
    bytes.appendLittleEndian(header.session.low)
    bytes.appendLittleEndian(header.fileByteCount)
    bytes.append(
      contentsOf: repeatElement(0, count: ExportFormat.trailerByteCount - 4 - bytes.count))
    bytes.appendLittleEndian(CRC32C.checksum(of: bytes.rawBytes))
    self.bytes = bytes
  }
}
