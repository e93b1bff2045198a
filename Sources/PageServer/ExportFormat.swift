internal import Pages

/// The numbers of the export format. Documentation/salvage.md has the layout as tables.
public enum ExportFormat {
  /// The version that is written and read. A file of another version is refused.
  public static let version: UInt32 = 1
  static let magic = Array("PCEXPORT".utf8)
  static let trailerMagic = Array("PCEXPEND".utf8)
  /// In front of the regions.
  static let fixedHeaderByteCount = 512
  static let regionByteCount = 24
  /// Seal and checksum at the end of the header.
  static let headerSealByteCount = 32
  /// Headers are whole blocks of so many bytes.
  static let headerBlockByteCount = 4096
  /// Content of one chunk: the unit that is sealed, and has to be read for one page.
  static let chunkPayloadByteCount = 65_536
  /// Tag, number, flags and checksum behind the content.
  static let chunkSealByteCount = 32
  static let chunkByteCount = chunkPayloadByteCount + chunkSealByteCount
  static let trailerByteCount = 64
  /// Index and pages start at the front of a chunk; an index block never lies in two.
  static let indexBlockByteCount = 512
  static let indexBlockCountOfChunk = chunkPayloadByteCount / indexBlockByteCount
  /// Two bits a page fill the second half of a block.
  static let pageCountOfIndexBlock = 1024
  static let indexStatesOffset = 256
  /// The bytes of the creation time, as `WallClock.timestamp` writes it.
  static let timeByteCount = 24
  static let saltByteCount = 32
  static let tokenCheckByteCount = 16

  /// What is sealed under one key, each with its own count.
  enum ChunkKind {
    static let content: UInt32 = 1
    static let header: UInt32 = 2
  }
}

/// What the source's journal proved when the file was written.
public enum ExportProof: UInt8, CaseIterable, Hashable, Sendable {
  /// HANDED_OFF: the destination may run the VM, the source never will.
  case handedOff = 1
  /// RAN was acknowledged, too: the destination has run it.
  case ranAcknowledged = 2
}

/// How many pages of each kind a file has.
public struct ExportCounts: Hashable, Sendable {
  /// Pages whose content is in the file.
  public var content: UInt64 = 0
  /// Pages that read as zeros.
  public var zero: UInt64 = 0
  /// Pages that were broken at the source.
  public var poisoned: UInt64 = 0
  /// Pages that the destination had: the file says nothing about them.
  public var unheld: UInt64 = 0

  /// No pages.
  public init() {}

  /// All pages.
  public var total: UInt64 { content + zero + poisoned + unheld }
}

/// What one page is in a file; the raw values stand in the index.
enum ExportedPage: UInt8, Hashable, Sendable {
  case unheld = 0
  case zero = 1
  case content = 2
  case poisoned = 3
}

/// Where the index block and the state of each page are.
struct ExportGeometry: Hashable, Sendable {
  let layout: ImageLayout
  /// The first index block of each region, and behind them the number of all blocks.
  let firstBlocks: [UInt64]

  init(_ layout: ImageLayout) {
    self.layout = layout
    var blocks: [UInt64] = [0]
    let size = UInt64(ExportFormat.pageCountOfIndexBlock)
    for region in layout.regions {
      // Rounded up: a region's last block may be partly used.
      blocks.append(blocks[blocks.count - 1] + (region.pageCount.rawValue + size - 1) / size)
    }
    firstBlocks = blocks
  }

  var blockCount: UInt64 { firstBlocks[firstBlocks.count - 1] }

  /// Rounded up to whole chunks.
  var indexChunkCount: UInt64 {
    let size = UInt64(ExportFormat.indexBlockCountOfChunk)
    return (blockCount + size - 1) / size
  }

  /// Chunks for so many bytes of pages, rounded up.
  static func chunkCount(ofContent byteCount: UInt64) -> UInt64 {
    let size = UInt64(ExportFormat.chunkPayloadByteCount)
    return (byteCount + size - 1) / size
  }

  /// The region that holds an offset of the image; nil when none does.
  func region(atImageOffset offset: UInt64) -> Region? {
    layout.regions.first {
      offset >= $0.imageOffset.rawValue
        && offset - $0.imageOffset.rawValue < $0.byteCount.rawValue
    }
  }

  /// A page's index block, and its place in it.
  func place(of page: PageIndex, in region: Region) -> (block: UInt64, slot: Int) {
    let size = UInt64(ExportFormat.pageCountOfIndexBlock)
    return (
      firstBlocks[Int(region.index.rawValue)] + page.rawValue / size, Int(page.rawValue % size)
    )
  }
}
