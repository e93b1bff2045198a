internal import Codec
internal import Pages
internal import System
internal import Wire

/// Reads an export's index and pages, one chunk of each in memory. For one thread at a time.
final class ExportReader {
  private let file: ExportFile
  private var sealed: SealedChunks
  private var index = [UInt8](repeating: 0, count: ExportFormat.chunkByteCount)
  private var indexChunk: UInt64?
  private var pages = [UInt8](repeating: 0, count: ExportFormat.chunkByteCount)
  private var pageChunk: UInt64?

  /// A reader of a file that was opened with its token.
  init(_ file: ExportFile) throws(ExportError) {
    guard let key = file.chunkKey else {
      invariantBroken("an export is read with its session's token")
    }
    self.file = file
    do throws(SealError) {
      sealed = try SealedChunks(key: key)
    } catch { throw .seal(error) }
  }

  // MARK: Index

  /// Makes an index block the one that `state` and `contentOffset` speak of.
  func loadIndex(block: UInt64) throws(ExportError) {
    let chunk = block / UInt64(ExportFormat.indexBlockCountOfChunk)
    guard indexChunk != chunk else { return }
    indexChunk = nil
    try Self.load(chunk, into: &index, from: file, with: &sealed)
    indexChunk = chunk
  }

  /// The state of a page, by its place in a loaded block; nil for a number that is none.
  func state(block: UInt64, slot: Int) -> ExportedPage? {
    let byte = index[
      Self.start(of: block) + ExportFormat.indexStatesOffset + slot / 4]
    return ExportedPage(rawValue: byte >> UInt8(slot % 4 * 2) & 3)
  }

  /// Where the content of a loaded block's first page with content is, in bytes of pages.
  func contentStart(block: UInt64) -> UInt64 {
    let block = (index: index, start: Self.start(of: block))
    return block.index.rawBytes.loadLittleEndian(at: block.start)
  }

  /// How many pages in front of `slot` have content in the file. Constant time.
  func contentCount(block: UInt64, before slot: Int) -> Int {
    let start = Self.start(of: block) + ExportFormat.indexStatesOffset
    let index = index
    let bytes = index.rawBytes
    var count = 0
    var first = 0
    while first < slot {
      var word: UInt64 = bytes.loadLittleEndian(at: start + first / 4)
      // Content is the state 0b10: the upper bit of a pair without the lower.
      word = word >> 1 & ~word & 0x5555_5555_5555_5555
      if slot - first < 32 { word &= (1 << UInt64(2 * (slot - first))) - 1 }
      count += word.nonzeroBitCount
      first += 32
    }
    return count
  }

  private static func start(of block: UInt64) -> Int {
    Int(block % UInt64(ExportFormat.indexBlockCountOfChunk)) * ExportFormat.indexBlockByteCount
  }

  // MARK: Pages

  /// Reads and opens one chunk of pages.
  func loadPages(chunk: UInt64) throws(ExportError) {
    guard pageChunk != chunk else { return }
    pageChunk = nil
    try Self.load(chunk, into: &pages, from: file, with: &sealed)
    pageChunk = chunk
  }

  /// Copies page content from a position, counted in bytes of pages, into a range of `bytes`.
  @_lifetime(bytes: copy bytes)
  func copyContent(
    at offset: UInt64, into bytes: inout MutableRawSpan, _ range: Range<Int>
  ) throws(ExportError) {
    let size = ExportFormat.chunkPayloadByteCount
    let end = file.header.contentByteCount
    guard offset <= end, UInt64(range.count) <= end - offset else {
      throw .inconsistent(path: file.path, reason: "a page lies behind all pages")
    }
    var done = 0
    while done < range.count {
      let position = offset + UInt64(done)
      let start = Int(position % UInt64(size))
      let count = min(range.count - done, size - start)
      let chunk = file.geometry.indexChunkCount + position / UInt64(size)
      try loadPages(chunk: chunk)
      let pages = pages
      bytes.copyBytes(
        of: pages.rawBytes.extracting(start..<start + count), at: range.lowerBound + done)
      done += count
    }
  }

  private static func load(
    _ chunk: UInt64, into buffer: inout [UInt8], from file: ExportFile,
    with sealed: inout SealedChunks
  ) throws(ExportError) {
    let seal = try buffer.withMutableRawBytes { bytes throws(ExportError) in
      try file.readChunk(chunk, into: &bytes)
    }
    let place = ChunkPlace(
      kind: ExportFormat.ChunkKind.content, number: seal.number, isLast: seal.isLast)
    let isSound: Bool
    do throws(SealError) {
      isSound = try buffer.withMutableRawBytes { bytes throws(SealError) in
        var content = bytes._mutatingExtracting(0..<ExportFormat.chunkPayloadByteCount)
        return try sealed.open(
          &content, at: place, tag: seal.tag, isEncrypted: file.header.isEncrypted)
      }
    } catch { throw .seal(error) }
    guard isSound else {
      throw .forged(
        path: file.path, file.part(ofChunk: chunk), offset: file.offset(ofChunk: chunk))
    }
  }
}

/// Holds the whole index against the header: what the file says about its pages adds up.
struct ExportIndexCheck {
  private let file: ExportFile
  private var counts = ExportCounts()
  private var contentByteCount: UInt64 = 0
  private var region = 0

  init(_ file: ExportFile) { self.file = file }

  /// Adds a block; they come in order.
  mutating func add(_ block: UInt64, _ reader: ExportReader) throws(ExportError) {
    let geometry = file.geometry
    if block == geometry.firstBlocks[region + 1] { region += 1 }
    let described = geometry.layout.regions[region]
    let first =
      (block - geometry.firstBlocks[region]) * UInt64(ExportFormat.pageCountOfIndexBlock)
    let pageCount = Int(
      min(
        described.pageCount.rawValue - first, UInt64(ExportFormat.pageCountOfIndexBlock)))
    try reader.loadIndex(block: block)
    guard reader.contentStart(block: block) == contentByteCount else {
      throw .inconsistent(path: file.path, reason: "index block \(block) starts elsewhere")
    }
    for slot in 0..<pageCount {
      switch reader.state(block: block, slot: slot) {
      case .unheld: counts.unheld += 1
      case .zero: counts.zero += 1
      case .content:
        counts.content += 1
        contentByteCount += UInt64(described.pageSize.byteCount)
      case .poisoned: counts.poisoned += 1
      case nil: invariantBroken("two bits are always a state")
      }
    }
  }

  /// After the last block.
  func finish() throws(ExportError) {
    guard counts == file.header.counts, contentByteCount == file.header.contentByteCount else {
      throw .inconsistent(path: file.path, reason: "header and index count other pages")
    }
  }
}
