internal import CGuestProgram
public import Pages

/// Why a guest cannot have the shape that was asked for.
public enum GuestShapeError: Error, Hashable, CustomStringConvertible, Sendable {
  /// Too little memory for one data page granule a vCPU behind the metadata.
  case tooSmall(byteCount: UInt64)
  /// Memory is not a multiple of 2 MiB, or there are not 1 to 4 vCPUs, or regions do not fit.
  case unsupported(String)
  /// Bytes that should be a guest's header are not.
  case notAnImage(String)

  /// One sentence.
  public var description: String {
    switch self {
    case .tooSmall(let byteCount): "\(byteCount) bytes are too little memory for this guest"
    case .unsupported(let reason): reason
    case .notAnImage(let reason): "not the memory of a microvm: \(reason)"
    }
  }
}

/// Where things stand in a guest's memory. Guest-physical address = offset in the image.
///
/// ```
/// header · page tables · code · one page a vCPU · version table · data pages … · unused tail
///   · the disk's record · the disk's buffer, where there is one
/// ```
public struct GuestLayout: Hashable, Sendable {
  /// A test VMM: more vCPUs than this machine class has cores would tell nothing new.
  public static let maximumVcpuCount = 4
  /// 64 GiB: what 64 page directories of 2 MiB entries map.
  public static let maximumByteCount: UInt64 = 64 << 30
  /// All words of a page but its id, version and checksum.
  public static let maximumNoiseWordCount = Int(CONTENT_MIXED_WORDS)
  /// What stands with its record in one huge page.
  public static let maximumBufferPageCount = 511
  static let smallPage: UInt64 = 4096
  static let directoryReach: UInt64 = 1 << 30

  /// All of the guest's memory.
  public let byteCount: UInt64
  /// How many vCPUs share the data pages.
  public let vcpuCount: Int
  /// Base-2 logarithm of the content pages in one backing page: 0, or 9 for 2 MiB.
  public let granuleShift: Int
  /// Mixed into all content, so that two guests never agree by chance.
  public let seed: UInt64
  /// Whether a page that was given back may still show its last content (shared memory).
  public let removedMayKeep: Bool
  /// Words of noise in each data page: see `PageContent`.
  public let noiseWordCount: Int
  /// Where the code is.
  public let codeOffset: UInt64
  /// Where vCPU 0's page is; the others follow.
  public let vcpuOffset: UInt64
  /// Where the version table is, 4 bytes a data page.
  public let tableOffset: UInt64
  /// Where the data pages start, aligned to the backing page.
  public let pagesOffset: UInt64
  /// Data pages; the same number for each vCPU.
  public let pageCount: Int
  /// Pages into which a disk reads; 0 for none.
  public let bufferPageCount: Int
  /// The page that says which block each buffer page holds: see `DiskBlock`. The buffer follows it.
  public let diskRecordOffset: UInt64

  /// The layout of a guest with that much memory.
  public init(
    byteCount: UInt64, vcpuCount: Int, pageSize: PageSize, seed: UInt64, removedMayKeep: Bool,
    noiseWordCount: Int = 0, bufferPageCount: Int = 0
  ) throws(GuestShapeError) {
    guard (1...Self.maximumVcpuCount).contains(vcpuCount) else {
      throw .unsupported("a guest has 1 to \(Self.maximumVcpuCount) vCPUs, not \(vcpuCount)")
    }
    guard byteCount % UInt64(PageSize.huge.byteCount) == 0, byteCount <= Self.maximumByteCount,
      byteCount > 0
    else {
      throw .unsupported("memory is a multiple of 2 MiB up to 64 GiB, not \(byteCount) bytes")
    }
    guard (0...Self.maximumNoiseWordCount).contains(noiseWordCount) else {
      throw .unsupported(
        "a page has room for \(Self.maximumNoiseWordCount) words of noise, not \(noiseWordCount)")
    }
    guard (0...Self.maximumBufferPageCount).contains(bufferPageCount) else {
      throw .unsupported(
        "a disk's buffer has up to \(Self.maximumBufferPageCount) pages, not \(bufferPageCount)")
    }
    let granuleShift = pageSize.shift - PageSize.small.shift
    // Rounded up: a directory is needed for a started GiB.
    let directories = (byteCount + Self.directoryReach - 1) / Self.directoryReach
    codeOffset = Self.pageTableOffset + (2 + directories) * Self.smallPage
    vcpuOffset = codeOffset + Self.smallPage
    tableOffset = vcpuOffset + UInt64(vcpuCount) * Self.smallPage
    // Room for one entry for each page of memory: a few entries too many.
    let tableEnd = tableOffset + (byteCount / Self.smallPage) * 4
    pagesOffset = Self.roundedUp(tableEnd, to: UInt64(pageSize.byteCount))
    let granuleBytes = Self.smallPage << UInt64(granuleShift)
    // Whole backing pages: a data page beside it could not be given back.
    let bufferBytes =
      bufferPageCount == 0
      ? 0 : Self.roundedUp(UInt64(1 + bufferPageCount) * Self.smallPage, to: granuleBytes)
    guard byteCount > pagesOffset + bufferBytes else { throw .tooSmall(byteCount: byteCount) }
    diskRecordOffset = byteCount - bufferBytes
    let room = diskRecordOffset - pagesOffset
    // Rounded down: each vCPU has the same number of granules, what is left over stays unused.
    let granulesEach = room / granuleBytes / UInt64(vcpuCount)
    guard granulesEach > 0 else { throw .tooSmall(byteCount: byteCount) }
    pageCount = Int(granulesEach << UInt64(granuleShift)) * vcpuCount
    self.byteCount = byteCount
    self.vcpuCount = vcpuCount
    self.granuleShift = granuleShift
    self.seed = seed
    self.removedMayKeep = removedMayKeep
    self.noiseWordCount = noiseWordCount
    self.bufferPageCount = bufferPageCount
  }

  private static func roundedUp(_ value: UInt64, to unit: UInt64) -> UInt64 {
    (value + unit - 1) / unit * unit
  }
}

extension GuestLayout {
  /// The top-level page table; the others follow it.
  public static let pageTableOffset: UInt64 = 4096

  /// Content pages in one backing page: what can be given back at once.
  public var pagesPerGranule: Int { 1 << granuleShift }
  /// Data pages of each vCPU.
  public var pagesPerVcpu: Int { pageCount / vcpuCount }
  /// The first byte behind the data pages.
  public var pagesEnd: UInt64 { pagesOffset + UInt64(pageCount) * Self.smallPage }
  /// Page directories, one for each started GiB.
  var directoryCount: UInt64 { (codeOffset - Self.pageTableOffset) / Self.smallPage - 2 }

  /// What a data page holds in a version.
  func content(ofDataPage index: Int, version: UInt32) -> PageContent {
    PageContent(
      id: imagePage(ofDataPage: index), version: version, seed: seed,
      noiseWordCount: noiseWordCount)
  }

  /// The id that a data page carries: its place in the image, in 4 KiB pages. Never 0.
  public func imagePage(ofDataPage index: Int) -> UInt64 {
    pagesOffset / Self.smallPage + UInt64(index)
  }

  /// Where that data page starts in the image.
  public func offset(ofDataPage index: Int) -> UInt64 {
    pagesOffset + UInt64(index) * Self.smallPage
  }

  /// The data page with that id; nil when the id names metadata or the unused tail.
  public func dataPage(ofImagePage id: UInt64) -> Int? {
    let first = pagesOffset / Self.smallPage
    guard id >= first, id - first < UInt64(pageCount) else { return nil }
    return Int(id - first)
  }

  /// The vCPU that alone reads and writes that data page.
  public func owner(ofDataPage index: Int) -> Int { (index >> granuleShift) % vcpuCount }

  /// The data page that is the `local`th of a vCPU; the guest's `locate_page`.
  public func dataPage(ofVcpu vcpu: Int, local: Int) -> Int {
    ((local >> granuleShift) * vcpuCount + vcpu) << granuleShift | local & (pagesPerGranule - 1)
  }

  /// Where the record of that buffer page is: a block's number, or 0.
  func offset(ofRecordOfBufferPage index: Int) -> UInt64 { diskRecordOffset + UInt64(index) * 8 }

  /// Where that buffer page starts in the image.
  public func offset(ofBufferPage index: Int) -> UInt64 {
    diskRecordOffset + UInt64(1 + index) * Self.smallPage
  }

  /// Where the page of a vCPU starts.
  public func offset(ofVcpu vcpu: Int) -> UInt64 {
    vcpuOffset + UInt64(vcpu) * Self.smallPage
  }
}
