import Codec
import Pages
import Wire

/// Makes an export file out of an input's pieces, after Documentation/salvage.md and with none of
/// the code under test: whatever header, index and pages say, checksums and seals are right.
struct ExportBuilder {
  static let headerByteCount = 4096
  static let contentByteCount = 65_536
  static let chunkByteCount = contentByteCount + 32
  static let trailerByteCount = 64
  private static let fixedHeaderByteCount = 512
  private static let blockByteCount = 512
  private static let pageCountOfBlock: UInt64 = 1024
  /// Bounds what one input costs.
  private static let maximumIndexChunkCount = 2
  private static let maximumPageChunkCount = 4

  /// One region as the header describes it, if it makes sense.
  struct Described {
    var offset: UInt64
    var pageCount: UInt64
    var pageByteCount: UInt64
    /// The first of its index blocks.
    var firstBlock: UInt64
  }

  private(set) var header: [UInt8]
  private(set) var index: [UInt8]
  private(set) var pages: [UInt8]
  private let token: SessionToken

  /// `header`, `index` and `pages` are the fronts of what they name; zeros follow.
  init(header: [UInt8], index: [UInt8], pages: [UInt8], token: SessionToken) {
    self.header = Self.padded(header, to: Self.headerByteCount)
    self.index = Self.padded(index, to: Self.contentByteCount)
    self.pages = Self.padded(pages, to: Self.contentByteCount)
    self.token = token
  }

  private static func padded(_ bytes: [UInt8], to size: Int) -> [UInt8] {
    // Rounded up to whole pieces of that size.
    let count = max(1, (bytes.count + size - 1) / size) * size
    return bytes + [UInt8](repeating: 0, count: count - bytes.count)
  }

  private var regionCount: Int {
    Int(header.rawBytes.loadLittleEndian(at: 28, as: UInt32.self))
  }

  /// The regions, if all their index blocks lie in `index`: a header may call pages index.
  func indexedRegions() -> [Described]? {
    guard let regions = regions(), let last = regions.last else { return nil }
    let end = last.firstBlock + Self.blockCount(last.pageCount)
    return end <= UInt64(index.count / Self.blockByteCount) ? regions : nil
  }

  /// Rounded up: a region's last block may be partly used.
  private static func blockCount(_ pageCount: UInt64) -> UInt64 {
    (pageCount + pageCountOfBlock - 1) / pageCountOfBlock
  }

  /// The regions; nil when they are more, or larger, than one input may name.
  func regions() -> [Described]? {
    guard (1...16).contains(regionCount) else { return nil }
    var regions: [Described] = []
    var blockCount: UInt64 = 0
    for position in 0..<regionCount {
      let start = Self.fixedHeaderByteCount + position * 24
      let byteCount = header.rawBytes.loadLittleEndian(at: start + 8, as: UInt64.self)
      let pageByteCount = UInt64(
        header.rawBytes.loadLittleEndian(at: start + 16, as: UInt32.self))
      guard pageByteCount == 4096 || pageByteCount == 2_097_152, byteCount < 1 << 40 else {
        return nil
      }
      let pageCount = byteCount / pageByteCount
      regions.append(
        Described(
          offset: header.rawBytes.loadLittleEndian(at: start), pageCount: pageCount,
          pageByteCount: pageByteCount, firstBlock: blockCount))
      blockCount += Self.blockCount(pageCount)
    }
    let limit = Self.maximumIndexChunkCount * Self.contentByteCount / Self.blockByteCount
    return blockCount <= UInt64(limit) ? regions : nil
  }

  /// Two bits of the index: what a page is.
  func state(of page: UInt64, in region: Described) -> UInt8 {
    let block = Int(region.firstBlock + page / Self.pageCountOfBlock)
    let slot = Int(page % Self.pageCountOfBlock)
    return index[block * Self.blockByteCount + 256 + slot / 4] >> UInt8(slot % 4 * 2) & 3
  }

  // MARK: What follows from the rest

  /// Puts right every field that follows from the regions and the states: counts, lengths, places.
  /// False when the input names too much, and nothing is changed.
  mutating func putRight() -> Bool {
    guard let regions = regions() else { return false }
    let blockCount = regions.reduce(0) { $0 + Self.blockCount($1.pageCount) }
    let indexChunkCount = max(
      1,
      (Int(blockCount) * Self.blockByteCount + Self.contentByteCount - 1)
        / Self.contentByteCount)
    var index = Self.padded(index, to: indexChunkCount * Self.contentByteCount)
    index.removeSubrange((indexChunkCount * Self.contentByteCount)...)
    self.index = index
    var counts: [UInt64] = [0, 0, 0, 0]
    var contentByteCount: UInt64 = 0
    for region in regions {
      for page in 0..<region.pageCount {
        if page % Self.pageCountOfBlock == 0 {
          let block = Int(region.firstBlock + page / Self.pageCountOfBlock)
          store(contentByteCount, inIndexAt: block * Self.blockByteCount)
        }
        let state = Int(state(of: page, in: region))
        counts[state] += 1
        if state == 2 { contentByteCount += region.pageByteCount }
      }
    }
    let chunkCount =
      (contentByteCount + UInt64(Self.contentByteCount) - 1) / UInt64(Self.contentByteCount)
    guard chunkCount <= UInt64(Self.maximumPageChunkCount) else { return false }
    // What lies behind the last page is zero, and whole chunks are written.
    pages = Array(pages.prefix(Int(contentByteCount)))
    pages += [UInt8](
      repeating: 0, count: Int(chunkCount) * Self.contentByteCount - pages.count)
    describe(counts, contentByteCount, indexChunkCount)
    return true
  }

  private mutating func describe(
    _ counts: [UInt64], _ contentByteCount: UInt64, _ indexChunkCount: Int
  ) {
    let pageChunkCount = pages.count / Self.contentByteCount
    let byteCount =
      header.count + (indexChunkCount + pageChunkCount) * Self.chunkByteCount
      + Self.trailerByteCount
    let epoch = header.rawBytes.loadLittleEndian(at: 48, as: UInt64.self)
    header.replaceSubrange(0..<8, with: Array("PCEXPORT".utf8))
    let headerByteCount = header.count
    header.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(UInt32(1), at: 8)
      bytes.storeLittleEndian(UInt32(headerByteCount), at: 12)
      bytes.storeLittleEndian(UInt64(byteCount), at: 16)
      bytes.storeLittleEndian(epoch &+ 1, at: 56)
      bytes.storeLittleEndian(UInt32(Self.contentByteCount), at: 68)
      bytes.storeLittleEndian(contentByteCount, at: 72)
      for (position, count) in [counts[2], counts[1], counts[3], counts[0]].enumerated() {
        bytes.storeLittleEndian(count, at: 80 + position * 8)
      }
      bytes.storeLittleEndian(UInt64(indexChunkCount), at: 112)
      bytes.storeLittleEndian(UInt64(pageChunkCount), at: 120)
    }
  }

  private mutating func store(_ number: UInt64, inIndexAt offset: Int) {
    index.withMutableRawBytes { $0.storeLittleEndian(number, at: offset) }
  }

  // MARK: The file

  /// All bytes. `isSealed`: with the keys of the token; otherwise checksums alone are right, as
  /// somebody makes them who knows the format and not the token.
  func file(isSealed: Bool) -> [UInt8] {
    do throws(SealError) {
      return try makeFile(isSealed: isSealed)
    } catch { invariantBroken("libcrypto seals what fits into memory") }
  }

  private func makeFile(isSealed: Bool) throws(SealError) -> [UInt8] {
    var header = header
    header.replaceSubrange(
      160..<176, with: try key("postcopy export 1: token check", byteCount: 16))
    var sealed = try SealedChunks(
      key: isSealed
        ? try key("postcopy export 1: chunks", byteCount: SealedChunks.keyByteCount)
        : [UInt8](repeating: 0, count: SealedChunks.keyByteCount))
    try Self.seal(&header, &sealed)
    var file = header
    let isEncrypted = header[24] & 1 == 1
    let content = index + pages
    let count = content.count / Self.contentByteCount
    for number in 0..<count {
      let start = number * Self.contentByteCount
      var chunk = Array(content[start..<start + Self.contentByteCount])
      let place = ChunkPlace(kind: 1, number: UInt64(number), isLast: number == count - 1)
      let tag = try chunk.withMutableRawBytes { bytes throws(SealError) in
        try sealed.seal(&bytes, at: place, encrypting: isEncrypted)
      }
      file += chunk
      file.appendLittleEndian(tag.low)
      file.appendLittleEndian(tag.high)
      file.appendLittleEndian(place.number)
      file.appendLittleEndian(UInt32(place.isLast ? 1 : 0))
      file.appendLittleEndian(
        Checksums.checksum(of: file, file.count - Self.chunkByteCount + 4..<file.count))
    }
    return file + trailer(header)
  }

  private func key(_ purpose: String, byteCount: Int) throws(SealError) -> [UInt8] {
    try KeyDerivation.hkdfSHA256(
      secret: token.bytes, salt: Array(header[128..<160]),
      purpose: Array(purpose.utf8) + header[32..<48], byteCount: byteCount)
  }

  private static func seal(
    _ header: inout [UInt8], _ sealed: inout SealedChunks
  ) throws(SealError) {
    let end = header.count - 32
    var content = Array(header[..<end])
    let tag = try content.withMutableRawBytes { bytes throws(SealError) in
      try sealed.seal(&bytes, at: ChunkPlace(kind: 2, number: 0), encrypting: false)
    }
    header.withMutableRawBytes { bytes in
      bytes.storeLittleEndian(tag.low, at: end)
      bytes.storeLittleEndian(tag.high, at: end + 8)
    }
    Checksums.store(
      Checksums.checksum(of: header, 0..<header.count - 4), in: &header, at: header.count - 4)
  }

  private func trailer(_ header: [UInt8]) -> [UInt8] {
    var bytes = Array("PCEXPEND".utf8)
    bytes.appendLittleEndian(UInt32(1))
    bytes += header.suffix(4)
    bytes += header[32..<48]
    bytes += header[16..<24]
    bytes += [UInt8](repeating: 0, count: Self.trailerByteCount - 4 - bytes.count)
    bytes.appendLittleEndian(Checksums.checksum(of: bytes, 0..<bytes.count))
    return bytes
  }
}
