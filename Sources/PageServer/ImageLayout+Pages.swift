internal import Pages

// Sets of pages by flat index.
extension ImageLayout {
  /// How many bytes a set of pages has.
  func byteCount(of pages: PageBitmap) -> UInt64 {
    var total: UInt64 = 0
    for region in regions {
      let first = flatIndex(of: PageID(region: region.index, page: PageIndex(rawValue: 0)))
      let range = first..<first + Int(region.pageCount.rawValue)
      total += UInt64(pages.setCount(in: range)) * UInt64(region.pageSize.byteCount)
    }
    return total
  }

  /// Calls `body` with the bytes of each run of pages, by flat index, that touch a range of the
  /// image.
  func forEachRun(
    of pages: PageBitmap, in range: Range<UInt64>, _ body: (Range<UInt64>) -> Void
  ) {
    for region in regions {
      let base = region.imageOffset.rawValue
      let part = range.clamped(to: base..<base + region.byteCount.rawValue)
      guard !part.isEmpty else { continue }
      let size = UInt64(region.pageSize.byteCount)
      let first = flatIndex(of: PageID(region: region.index, page: PageIndex(rawValue: 0)))
      var position = first + Int((part.lowerBound - base) / size)
      // Rounded up: a page is touched by any part of it.
      let end = first + Int((part.upperBound - base + size - 1) / size)
      while let run = pages.nextRun(from: position, before: end, limit: end - position) {
        let start = base + UInt64(run.lowerBound - first) * size
        body(start..<start + UInt64(run.count) * size)
        position = run.upperBound
      }
    }
  }

  /// A log, of a bit for each 4 KiB, pages of the image: one small page that was written
  /// makes its huge page written.
  func pages(in bits: [UInt8]) -> PageBitmap {
    var dirty = PageBitmap(pageCount: Int(totalPageCount.rawValue))
    for region in regions {
      let first = flatIndex(of: PageID(region: region.index, page: PageIndex(rawValue: 0)))
      let shift = region.pageSize.shift - PageSize.small.shift
      let start = Int(region.imageOffset.rawValue) >> PageSize.small.shift
      let count = Int(region.pageCount.rawValue) << shift
      var bit = 0
      while bit < count {
        let position = start + bit
        // A log that is too short knows nothing of what it leaves out.
        let byte = position >> 3 < bits.count ? bits[position >> 3] : 0xff
        if byte == 0, position & 7 == 0 {
          bit += 8
          continue
        }
        if byte & 1 << UInt8(position & 7) != 0 { dirty.insert(first + bit >> shift) }
        bit += 1
      }
    }
    return dirty
  }
}
