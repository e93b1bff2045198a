internal import Codec
public import Pages
internal import System

/// The memory of a VM that was handed over, out of an export file, on whatever host that is.
///
/// Every byte that it serves was authenticated when it was read for that very answer: a file that
/// changes underfoot is an error, never wrong memory.
public final class ExportBacking: MemoryBacking {
  /// The file as the user wrote it.
  public let source: MemorySource
  /// The file's device and inode.
  public let identity: MemoryIdentity
  /// Taken to survive the boot.
  public var isVolatile: Bool { false }
  /// The image as the source saw it.
  public var naturalLayout: ImageLayout { file.header.layout }
  /// The file.
  public let file: ExportFile
  /// Readers that no thread uses just now: as many as there were threads at once.
  private let readers: Lock<[ExportReader]>
  /// More than the threads of a session; the array never grows behind that.
  private static let readerCapacity = 32

  /// The memory in a file that was opened with its session's token.
  public init(_ file: ExportFile) throws(ExportError) {
    self.file = file
    source = .export(path: file.path)
    identity = .file(device: file.status.device, inode: file.status.inode)
    var idle = [try ExportReader(file)]
    idle.reserveCapacity(Self.readerCapacity)
    readers = Lock(idle)
  }

  /// Nothing to do: what is read proves itself.
  public func markFrozen() throws(MemoryError) {}

  /// See `MemoryBacking.read`. A page that the export does not hold is an error: the destination
  /// had it, so that nobody can know its content now.
  @_lifetime(bytes: copy bytes)
  public func read(
    into bytes: inout MutableRawSpan, at offset: UInt64, pageByteCount: Int
  ) throws(MemoryError) -> MemoryRead {
    let reader = try takeReader()
    defer { giveBack(reader) }
    var done = 0
    while done < bytes.byteCount {
      let position = offset + UInt64(done)
      let (state, content) = try locate(position, reader)
      switch state {
      case .content:
        do throws(ExportError) {
          try reader.copyContent(at: content, into: &bytes, done..<done + pageByteCount)
        } catch { throw unreadable(error) }
      case .zero: bytes.clearBytes(done..<done + pageByteCount)
      case .poisoned: return .poisoned(atOffset: done)
      case .unheld: throw .notInExport(name: source.description, offset: position)
      }
      done += pageByteCount
    }
    return .complete
  }

  /// Finds pages that the index calls zero: one index block a call.
  public func searchAbsent(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    try search(for: .zero, in: range, found)
  }

  /// Finds pages that the destination had when the export was made.
  public func searchUnheld(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    try search(for: .unheld, in: range, found)
  }

  private func search(
    for wanted: ExportedPage, in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    let region = region(at: range.lowerBound)
    let size = UInt64(region.pageSize.byteCount)
    let start = region.imageOffset.rawValue
    // Rounded down: a page that the range only touches is judged as a whole and cut below.
    let first = (range.lowerBound - start) / size
    let (block, slot) = file.geometry.place(of: PageIndex(rawValue: first), in: region)
    let pageCount = min(
      UInt64(ExportFormat.pageCountOfIndexBlock - slot), region.pageCount.rawValue - first)
    let reader = try takeReader()
    defer { giveBack(reader) }
    try load(block, reader)
    var runStart: UInt64?
    for page in 0..<pageCount {
      let isWanted = reader.state(block: block, slot: slot + Int(page)) == wanted
      if isWanted, runStart == nil { runStart = first + page }
      if let from = runStart, !isWanted || page == pageCount - 1 {
        let to = first + page + (isWanted ? 1 : 0)
        let run = (start + from * size..<start + to * size).clamped(to: range)
        if !run.isEmpty { found(run) }
        runStart = nil
      }
    }
    return min(start + (first + pageCount) * size, range.upperBound)
  }

  // MARK: One page

  /// What the page at an image offset is, and where its content is.
  private func locate(
    _ offset: UInt64, _ reader: ExportReader
  ) throws(MemoryError) -> (ExportedPage, content: UInt64) {
    let region = region(at: offset)
    let size = UInt64(region.pageSize.byteCount)
    let page = PageIndex(rawValue: (offset - region.imageOffset.rawValue) / size)
    let (block, slot) = file.geometry.place(of: page, in: region)
    try load(block, reader)
    guard let state = reader.state(block: block, slot: slot) else {
      invariantBroken("two bits are always a state")
    }
    guard state == .content else { return (state, 0) }
    let before = UInt64(reader.contentCount(block: block, before: slot))
    // Checked before the file was served; it may have been exchanged since, seals and all.
    let (content, overflows) =
      reader.contentStart(block: block).addingReportingOverflow(before * size)
    guard !overflows else {
      throw unreadable(
        .inconsistent(path: file.path, reason: "index block \(block) starts elsewhere"))
    }
    return (state, content)
  }

  private func load(_ block: UInt64, _ reader: ExportReader) throws(MemoryError) {
    do throws(ExportError) {
      try reader.loadIndex(block: block)
    } catch { throw unreadable(error) }
  }

  private func region(at offset: UInt64) -> Region {
    guard let region = file.geometry.region(atImageOffset: offset) else {
      invariantBroken("an offset lies inside the image")
    }
    return region
  }

  private func unreadable(_ error: ExportError) -> MemoryError {
    .exportUnreadable(name: source.description, reason: error.description)
  }

  private func takeReader() throws(MemoryError) -> ExportReader {
    if let reader = readers.withLock({ $0.popLast() }) { return reader }
    do throws(ExportError) {
      return try ExportReader(file)
    } catch { throw unreadable(error) }
  }

  private func giveBack(_ reader: ExportReader) {
    readers.withLock { if $0.count < Self.readerCapacity { $0.append(reader) } }
  }
}
