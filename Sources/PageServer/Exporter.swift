internal import Codec
internal import Pages
public import Session
internal import System
public import Wire

/// What an export is made of and where it goes.
public struct ExportRequest: Sendable {
  /// The VM.
  public var vmName: VMName
  /// The session, its epoch and mode.
  public var session: SessionID
  /// The source's epoch before the hand-off.
  public var epoch: Epoch
  /// How the migration is done.
  public var mode: MigrationMode
  /// What the journal proves.
  public var proof: ExportProof
  /// The session's secret.
  public var token: SessionToken
  /// The file.
  public var path: String
  /// Whether it is encrypted.
  public var isEncrypted = true

  /// A request with all its parts.
  public init(
    vmName: VMName, session: SessionID, epoch: Epoch, mode: MigrationMode, proof: ExportProof,
    token: SessionToken, path: String
  ) {
    self.vmName = vmName
    self.session = session
    self.epoch = epoch
    self.mode = mode
    self.proof = proof
    self.token = token
    self.path = path
  }
}

/// How far an export is.
public struct ExportProgress: Hashable, Sendable {
  /// Pages looked at.
  public var donePageCount: UInt64
  /// Pages of the image.
  public var totalPageCount: UInt64
  /// Bytes of pages written.
  public var contentByteCount: UInt64
}

/// Reads the frozen memory, or what of it the destination awaits, into an export file.
public struct Exporter: ~Copyable {
  private let backing: any MemoryBacking
  private let request: ExportRequest
  private let awaited: ExportAwaited?
  private let layout: ImageLayout
  private var buffer: PageBuffer
  private var counts = ExportCounts()

  /// An exporter of all pages, or of those that `awaited` names. From here on a change of the
  /// memory is an error.
  public init(
    _ request: ExportRequest, of backing: any MemoryBacking,
    awaited: ExportAwaited? = nil
  ) throws(ExportError) {
    let buffer: PageBuffer
    do throws(SystemError) {
      buffer = try PageBuffer(byteCount: PageSize.huge.byteCount)
    } catch { throw .system(error) }
    do throws(MemoryError) {
      try backing.markFrozen()
    } catch { throw .memory(error) }
    self.backing = backing
    self.request = request
    self.awaited = awaited
    layout = backing.naturalLayout
    self.buffer = buffer
  }

  /// The most bytes that the file can have: a page of zeros that somebody wrote is found only when
  /// it is read. Walks the whole image, but reads nothing of it.
  public mutating func estimate() throws(ExportError) -> UInt64 {
    var header = header(salt: [], tokenCheck: [])
    for region in layout.regions {
      for block in Self.blocks(of: region) {
        let pages = try classify(block, of: region)
        header.contentByteCount +=
          UInt64(pages.count { $0 == .content }) * UInt64(region.pageSize.byteCount)
      }
    }
    return header.fileByteCount
  }

  /// Writes the file: it is whole and durable then, or not there at all. `progress` is told after
  /// each 1024 pages and answers whether to go on; `estimate` is for the message when there is no
  /// room.
  public mutating func write(
    estimate: UInt64, _ progress: (ExportProgress) -> Bool = { _ in true }
  ) throws(ExportError) -> ExportHeader {
    let salt: [UInt8]
    do throws(SystemError) {
      salt = try RandomBytes.make(ExportFormat.saltByteCount)
    } catch { throw .system(error) }
    let keys: ExportKeys
    do throws(SealError) {
      keys = try ExportKeys(token: request.token, session: request.session, salt: salt)
    } catch { throw .seal(error) }
    var writer = try ExportFileWriter.create(
      request.path, header: header(salt: salt, tokenCheck: keys.tokenCheck), keys: keys,
      expectedByteCount: estimate)
    counts = ExportCounts()
    for region in layout.regions {
      for block in Self.blocks(of: region) {
        try write(block, of: region, to: &writer)
        let isWanted = progress(
          ExportProgress(
            donePageCount: counts.total, totalPageCount: layout.totalPageCount.rawValue,
            contentByteCount: writer.contentByteCount))
        guard isWanted else { throw .stopped(path: request.path) }
      }
    }
    return try writer.finish(counts)
  }

  private func header(salt: [UInt8], tokenCheck: [UInt8]) -> ExportHeader {
    ExportHeader(
      vmName: request.vmName.text, session: request.session, epoch: request.epoch,
      mode: request.mode, proof: request.proof, createdAt: WallClock.timestamp(), layout: layout,
      counts: ExportCounts(), contentByteCount: 0, isEncrypted: request.isEncrypted, salt: salt,
      tokenCheck: tokenCheck)
  }

  /// The pages of each index block of a region.
  private static func blocks(of region: Region) -> [Range<UInt64>] {
    let count = region.pageCount.rawValue
    let size = UInt64(ExportFormat.pageCountOfIndexBlock)
    return stride(from: 0, to: count, by: ExportFormat.pageCountOfIndexBlock).map {
      $0..<min($0 + size, count)
    }
  }

  // MARK: One index block

  /// What can be said of each page without reading it: unheld, zero, or still to be read.
  private func classify(
    _ block: Range<UInt64>, of region: Region
  ) throws(ExportError) -> [ExportedPage] {
    let size = UInt64(region.pageSize.byteCount)
    let start = region.imageOffset.rawValue + block.lowerBound * size
    var pages = [ExportedPage](repeating: .content, count: block.count)
    try markAbsent(&pages, from: start, size: size)
    guard let awaited else { return pages }
    do throws(PageStateFileError) {
      let isAwaited = try awaited.awaits(
        pagesFrom: start, pageCount: block.count, pageSize: region.pageSize)
      for (page, isAwaited) in isAwaited.enumerated() where !isAwaited { pages[page] = .unheld }
    } catch { throw .awaited(error) }
    return pages
  }

  private func markAbsent(
    _ pages: inout [ExportedPage], from start: UInt64, size: UInt64
  ) throws(ExportError) {
    let end = start + UInt64(pages.count) * size
    var position = start
    do throws(MemoryError) {
      while position < end {
        position = try backing.searchAbsent(in: position..<end) { absent in
          // Rounded inwards: a page that is only partly absent is none.
          let first = (absent.lowerBound - start + size - 1) / size
          let last = (absent.upperBound - start) / size
          if first < last {
            for page in Int(first)..<Int(last) { pages[page] = .zero }
          }
        }
      }
    } catch { throw .memory(error) }
  }

  private mutating func write(
    _ block: Range<UInt64>, of region: Region, to writer: inout ExportFileWriter
  ) throws(ExportError) {
    var pages = try classify(block, of: region)
    let contentStart = writer.contentByteCount
    let size = region.pageSize.byteCount
    // As many pages in one read as the engine reads for one frame.
    let limit = Int(WireLimits.maximumRunPageCount(of: region.pageSize).rawValue)
    var page = 0
    while page < pages.count {
      guard pages[page] == .content else {
        page += 1
        continue
      }
      var end = page + 1
      while end < pages.count, end - page < limit, pages[end] == .content { end += 1 }
      let offset =
        region.imageOffset.rawValue + (block.lowerBound + UInt64(page)) * UInt64(size)
      try read(&pages, page..<end, at: offset, size: size)
      for position in page..<end where pages[position] == .content {
        let start = (position - page) * size
        try writer.append(content: buffer.bytes(start..<start + size))
      }
      page = end
    }
    count(pages)
    try writer.append(block: Self.encode(pages, contentStart: contentStart))
  }

  /// Reads pages into the buffer and sorts them: content, zero or poisoned.
  private mutating func read(
    _ pages: inout [ExportedPage], _ range: Range<Int>, at offset: UInt64, size: Int
  ) throws(ExportError) {
    let backing = backing
    var done = 0
    while done < range.count {
      do throws(MemoryError) {
        var span = buffer.mutableBytes(done * size..<range.count * size)
        let result = try backing.read(
          into: &span, at: offset + UInt64(done * size), pageByteCount: size)
        guard case .poisoned(let found) = result else { break }
        done += found / size
        pages[range.lowerBound + done] = .poisoned
        done += 1
      } catch { throw .memory(error) }
    }
    for position in range where pages[position] == .content {
      let start = (position - range.lowerBound) * size
      if ZeroScan.isZero(buffer.bytes(start..<start + size)) { pages[position] = .zero }
    }
    // The same limit as when it is served: so many are a device that fails, not broken cells.
    let poisoned = counts.poisoned + UInt64(pages.count { $0 == .poisoned })
    guard poisoned <= UInt64(SourceContext.maximumPoisonedPageCount) else {
      throw .memory(
        .tooManyPoisonedPages(name: backing.source.description, count: Int(poisoned)))
    }
  }

  private mutating func count(_ pages: [ExportedPage]) {
    for page in pages {
      switch page {
      case .unheld: counts.unheld += 1
      case .zero: counts.zero += 1
      case .content: counts.content += 1
      case .poisoned: counts.poisoned += 1
      }
    }
  }

  private static func encode(_ pages: [ExportedPage], contentStart: UInt64) -> [UInt8] {
    var block: [UInt8] = []
    block.reserveCapacity(ExportFormat.indexBlockByteCount)
    block.appendLittleEndian(contentStart)
    block.append(
      contentsOf: repeatElement(0, count: ExportFormat.indexBlockByteCount - block.count))
    for (page, state) in pages.enumerated() {
      block[ExportFormat.indexStatesOffset + page / 4] |= state.rawValue << UInt8(page % 4 * 2)
    }
    return block
  }
}
