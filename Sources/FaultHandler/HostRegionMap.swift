internal import Migration
internal import Pages
internal import UFFD

/// Where the regions are in the VMM's address space: from an address to a page, and back.
struct HostRegionMap: Sendable {
  struct Entry: Sendable {
    let region: Region
    let range: HostRange
    let kind: MemoryKind
    /// The flat index of the region's first page.
    let firstFlatIndex: Int

    /// The flat indices of all its pages.
    var flatRange: Range<Int> {
      firstFlatIndex..<firstFlatIndex + Int(region.pageCount.rawValue)
    }

    /// The addresses of pages of this region.
    func hostRange(_ pages: Range<Int>) -> HostRange {
      let shift = UInt64(region.pageSize.shift)
      let offset = UInt64(pages.lowerBound - firstFlatIndex) << shift
      return HostRange(
        start: range.start.advanced(by: ByteCount(rawValue: offset)),
        byteCount: ByteCount(rawValue: UInt64(pages.count) << shift))
    }

    /// The pages that lie whole in `part`, which may reach beyond the region.
    func pages(inside part: HostRange) -> Range<Int> {
      let start = max(part.start, range.start)
      let end = min(part.end, range.end)
      guard start < end else { return firstFlatIndex..<firstFlatIndex }
      let size = UInt64(region.pageSize.byteCount)
      // Rounded up at the start and down at the end: a page that is cut keeps its content.
      let first = (range.start.distance(to: start).rawValue + size - 1) / size
      let last = range.start.distance(to: end).rawValue / size
      return firstFlatIndex + Int(first)..<firstFlatIndex + Int(max(first, last))
    }
  }

  /// In the order of the regions' indices.
  let entries: [Entry]
  /// Positions in `entries`, in the order of host addresses.
  private let byAddress: [Int]

  init(_ document: AttachDocument, kinds: [MemoryKind]) {
    var entries: [Entry] = []
    for (region, kind) in zip(document.layout.regions, kinds) {
      let first = PageID(region: region.index, page: PageIndex(rawValue: 0))
      entries.append(
        Entry(
          region: region, range: document.hostRange(of: region), kind: kind,
          firstFlatIndex: document.layout.flatIndex(of: first)))
    }
    self.entries = entries
    byAddress = entries.indices.sorted { entries[$0].range.start < entries[$1].range.start }
  }

  func entry(of region: RegionIndex) -> Entry { entries[Int(region.rawValue)] }

  /// The region that holds a page by its flat index, which must exist.
  func entry(holding flatIndex: Int) -> Entry {
    var low = 0
    var high = entries.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if entries[middle].firstFlatIndex <= flatIndex { low = middle } else { high = middle }
    }
    return entries[low]
  }

  /// The flat index of the page at an address; nil outside every region. `hint` is where the last
  /// one was found: faults come in clusters.
  func flatIndex(at address: HostAddress, hint: inout Int) -> Int? {
    if hint < entries.count, entries[hint].range.contains(address) {
      return flatIndex(at: address, in: entries[hint])
    }
    var low = 0
    var high = byAddress.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if entries[byAddress[middle]].range.start <= address { low = middle } else { high = middle }
    }
    let position = byAddress[low]
    guard entries[position].range.contains(address) else { return nil }
    hint = position
    return flatIndex(at: address, in: entries[position])
  }

  private func flatIndex(at address: HostAddress, in entry: Entry) -> Int {
    let offset = entry.range.start.distance(to: address).rawValue
    return entry.firstFlatIndex + Int(offset >> UInt64(entry.region.pageSize.shift))
  }
}
