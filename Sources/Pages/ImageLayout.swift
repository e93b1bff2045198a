/// A contiguous part of a VM's memory image, with one page size.
public struct Region: Hashable, Sendable {
  /// Its position in the image's list.
  public let index: RegionIndex
  /// Where it starts in the memory image (file). The wire names pages by it, never by an address.
  public let imageOffset: ByteCount
  /// Its length; a whole number of pages.
  public let byteCount: ByteCount
  /// The size of all its pages, equal on both hosts.
  public let pageSize: PageSize

  /// A region as both hosts describe it. `ImageLayout` checks it.
  public init(
    index: RegionIndex, imageOffset: ByteCount, byteCount: ByteCount, pageSize: PageSize
  ) {
    self.index = index
    self.imageOffset = imageOffset
    self.byteCount = byteCount
    self.pageSize = pageSize
  }

  /// How many pages it has.
  @inlinable
  public var pageCount: PageCount { byteCount.wholePages(of: pageSize) }
}

/// Why a list of regions cannot be an image.
public enum LayoutError: Error, Hashable, Sendable, CustomStringConvertible {
  /// An image needs at least one region.
  case noRegions
  /// More than `ImageLayout.maximumRegionCount` regions.
  case tooManyRegions(count: Int)
  /// The region has no bytes.
  case emptyRegion(RegionIndex)
  /// Offset or length is not a whole number of the region's pages.
  case unaligned(RegionIndex)
  /// Offset plus length exceeds `ImageLayout.maximumByteCount`.
  case outOfBounds(RegionIndex)
  /// Two regions claim the same bytes of the image.
  case overlap(RegionIndex, RegionIndex)
  /// The page size is none that can be migrated; carries the bytes that were asked for.
  case unsupportedPageSize(RegionIndex, byteCount: UInt64)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .noRegions: "the memory image has no regions"
    case .tooManyRegions(let count):
      "the memory image has \(count) regions; at most \(ImageLayout.maximumRegionCount) are allowed"
    case .emptyRegion(let region): "region \(region.rawValue) is empty"
    case .unaligned(let region):
      "region \(region.rawValue): offset or size is not a whole number of its pages"
    case .outOfBounds(let region): "region \(region.rawValue) ends beyond the largest image"
    case .overlap(let first, let second):
      "regions \(first.rawValue) and \(second.rawValue) overlap in the memory image"
    case .unsupportedPageSize(let region, let byteCount):
      byteCount == 1 << 30
        ? "region \(region.rawValue) has 1 GiB pages: one fault would stall a vCPU for a second; "
          + "use 4 KiB or 2 MiB pages"
        : "region \(region.rawValue) has pages of \(byteCount) bytes; 4096 and 2097152 are "
          + "supported"
    }
  }
}

/// A VM's memory as a list of regions: the shape that both hosts must agree on.
///
/// Each page also has a *flat index*, its position when all pages of all regions are counted in
/// order. Bitmaps and page states are kept by flat index.
public struct ImageLayout: Hashable, Sendable {
  /// Bounds what a hostile peer can make us allocate; Firecracker sends two or more, QEMU a dozen.
  public static let maximumRegionCount = 1024
  /// 64 TiB: above any VM, below any overflow of byte arithmetic.
  public static let maximumByteCount: UInt64 = 1 << 46

  /// The regions in the order of their index.
  public let regions: [Region]
  /// All pages of all regions.
  public let totalPageCount: PageCount
  /// All bytes of all regions.
  public let totalByteCount: ByteCount
  @usableFromInline let firstFlatIndices: [UInt64]

  /// Checks alignment, bounds and overlap. The regions' indices are set to their positions.
  public init(_ described: [Region]) throws(LayoutError) {
    guard !described.isEmpty else { throw .noRegions }
    guard described.count <= Self.maximumRegionCount else {
      throw .tooManyRegions(count: described.count)
    }
    var regions: [Region] = []
    var firstFlatIndices: [UInt64] = []
    var pages: UInt64 = 0
    var bytes: UInt64 = 0
    regions.reserveCapacity(described.count)
    for (position, region) in described.enumerated() {
      let index = RegionIndex(position)
      guard region.byteCount.rawValue > 0 else { throw .emptyRegion(index) }
      guard region.byteCount.isMultiple(of: region.pageSize),
        region.imageOffset.isMultiple(of: region.pageSize)
      else { throw .unaligned(index) }
      guard region.byteCount.rawValue <= Self.maximumByteCount,
        region.imageOffset.rawValue <= Self.maximumByteCount - region.byteCount.rawValue,
        bytes <= Self.maximumByteCount - region.byteCount.rawValue
      else { throw .outOfBounds(index) }
      firstFlatIndices.append(pages)
      pages += region.pageCount.rawValue
      bytes += region.byteCount.rawValue
      regions.append(
        Region(
          index: index, imageOffset: region.imageOffset, byteCount: region.byteCount,
          pageSize: region.pageSize))
    }
    try Self.checkOverlap(regions)
    self.regions = regions
    self.firstFlatIndices = firstFlatIndices
    self.totalPageCount = PageCount(rawValue: pages)
    self.totalByteCount = ByteCount(rawValue: bytes)
  }

  private static func checkOverlap(_ regions: [Region]) throws(LayoutError) {
    let byOffset = regions.sorted { $0.imageOffset < $1.imageOffset }
    for (before, after) in zip(byOffset, byOffset.dropFirst())
    where (before.imageOffset + before.byteCount) > after.imageOffset {
      throw .overlap(min(before.index, after.index), max(before.index, after.index))
    }
  }

  /// The region of that index, nil when there is none.
  @inlinable
  public func region(_ index: RegionIndex) -> Region? {
    Int(index.rawValue) < regions.count ? regions[Int(index.rawValue)] : nil
  }

  /// Whether every page of the run exists in this image.
  @inlinable
  public func contains(_ run: PageRun) -> Bool {
    guard let region = region(run.region) else { return false }
    let pages = region.pageCount.rawValue
    return run.start.rawValue < pages && run.count.rawValue <= pages - run.start.rawValue
  }

  /// The position of the page among all pages of all regions. The page must exist.
  @inlinable
  public func flatIndex(of id: PageID) -> Int {
    Int(firstFlatIndices[Int(id.region.rawValue)] + id.page.rawValue)
  }

  /// The flat indices of a run that exists in this image.
  @inlinable
  public func flatRange(of run: PageRun) -> Range<Int> {
    let start = flatIndex(of: PageID(region: run.region, page: run.start))
    return start..<start + Int(run.count.rawValue)
  }

  /// The page at a flat index below `totalPageCount`.
  public func pageID(atFlatIndex flatIndex: Int) -> PageID {
    invariant(
      flatIndex >= 0 && UInt64(flatIndex) < totalPageCount.rawValue,
      "a flat index lies inside the image")
    var low = 0
    var high = firstFlatIndices.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if firstFlatIndices[middle] <= UInt64(flatIndex) { low = middle } else { high = middle }
    }
    return PageID(
      region: RegionIndex(low),
      page: PageIndex(rawValue: UInt64(flatIndex) - firstFlatIndices[low]))
  }
}
