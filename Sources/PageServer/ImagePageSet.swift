internal import Pages

/// Pages of 4 KiB, one bit for each by its offset in the image: as logs tell what was written.
struct ImagePageSet {
  private(set) var bits: [UInt8]

  /// None of an image.
  init(_ layout: ImageLayout) {
    let end = layout.regions.reduce(UInt64(0)) {
      max($0, ($1.imageOffset + $1.byteCount).rawValue)
    }
    bits = [UInt8](repeating: 0, count: (Int(end) >> PageSize.small.shift + 7) / 8)
  }

  /// Adds whole pages; what lies behind the image is none of its pages.
  mutating func insert(from offset: UInt64, byteCount: UInt64) {
    let pages = Self.pages(offset, byteCount).clamped(to: 0..<bits.count << 3)
    for page in pages { bits[page >> 3] |= 1 << UInt8(page & 7) }
  }

  /// Adds those of some pages, by flat index, that lie in a range of the image.
  mutating func insert(_ pages: PageBitmap, in range: Range<UInt64>, of layout: ImageLayout) {
    layout.forEachRun(of: pages, in: range) {
      insert(from: $0.lowerBound, byteCount: UInt64($0.count))
    }
  }

  /// Adds all pages.
  mutating func insertAll() {
    for position in bits.indices { bits[position] = 0xff }
  }

  private static func pages(_ offset: UInt64, _ byteCount: UInt64) -> Range<Int> {
    Int(offset) >> PageSize.small.shift..<Int(offset + byteCount) >> PageSize.small.shift
  }
}
