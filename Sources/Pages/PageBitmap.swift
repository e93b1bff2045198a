/// One bit for each page of an image, by flat index, and a count of those that are set.
public struct PageBitmap: Sendable, Equatable {
  /// How many pages it covers.
  public let pageCount: Int
  /// How many bits are set.
  public private(set) var setCount: Int
  private var words: [UInt64]

  /// A bitmap of `pageCount` pages with no bit set.
  public init(pageCount: Int) {
    invariant(pageCount >= 0, "a bitmap covers no negative number of pages")
    self.pageCount = pageCount
    self.setCount = 0
    // Rounded up: the last word may be partly used, its unused bits stay 0.
    self.words = [UInt64](repeating: 0, count: (pageCount + 63) / 64)
  }

  /// Whether the page's bit is set.
  public subscript(index: Int) -> Bool {
    invariant(index >= 0 && index < pageCount, "a bitmap index lies inside the bitmap")
    return words[index >> 6] & (1 << UInt64(index & 63)) != 0
  }

  /// Sets the bit; true when it was not set before.
  @discardableResult
  public mutating func insert(_ index: Int) -> Bool {
    invariant(index >= 0 && index < pageCount, "a bitmap index lies inside the bitmap")
    let mask: UInt64 = 1 << UInt64(index & 63)
    if words[index >> 6] & mask != 0 { return false }
    words[index >> 6] |= mask
    setCount += 1
    return true
  }

  /// Clears the bit; true when it was set before.
  @discardableResult
  public mutating func remove(_ index: Int) -> Bool {
    invariant(index >= 0 && index < pageCount, "a bitmap index lies inside the bitmap")
    let mask: UInt64 = 1 << UInt64(index & 63)
    if words[index >> 6] & mask == 0 { return false }
    words[index >> 6] &= ~mask
    setCount -= 1
    return true
  }

  /// Sets every bit.
  public mutating func insertAll() {
    for index in 0..<pageCount where index & 63 == 0 {
      let count = min(64, pageCount - index)
      words[index >> 6] = count == 64 ? ~0 : (1 << UInt64(count)) - 1
    }
    setCount = pageCount
  }

  /// Sets every bit that is set in `other`, a bitmap of as many pages.
  public mutating func formUnion(_ other: PageBitmap) { combine(other, |) }

  /// Clears every bit that is set in `other`, a bitmap of as many pages.
  public mutating func subtract(_ other: PageBitmap) { combine(other) { $0 & ~$1 } }

  /// How many bits of a range are set.
  public func setCount(in range: Range<Int>) -> Int {
    var count = 0
    var position = range.lowerBound
    while let run = nextRun(from: position, before: range.upperBound, limit: range.count) {
      count += run.count
      position = run.upperBound
    }
    return count
  }

  /// Clears every bit that is clear in `other`, a bitmap of as many pages.
  public mutating func formIntersection(_ other: PageBitmap) { combine(other, &) }

  private mutating func combine(
    _ other: PageBitmap, _ operation: (UInt64, UInt64) -> UInt64
  ) {
    invariant(pageCount == other.pageCount, "bitmaps that are combined cover as many pages")
    setCount = 0
    for position in words.indices {
      words[position] = operation(words[position], other.words[position])
      setCount += words[position].nonzeroBitCount
    }
  }

  /// The next pages from `start` on whose bits are set: one run, of no more than `limit` pages,
  /// that ends before `end`. nil when there is none.
  public func nextRun(from start: Int, before end: Int, limit: Int) -> Range<Int>? {
    guard let first = firstSet(from: start, before: end) else { return nil }
    let last = min(end, first + limit)
    return first..<(firstClear(from: first, before: last) ?? last)
  }

  /// The first page at or after `start`, and before `end`, whose bit is clear.
  public func firstClear(from start: Int, before end: Int) -> Int? {
    first(from: start, before: end, inverting: ~0)
  }

  /// The first page at or after `start`, and before `end`, whose bit is set.
  public func firstSet(from start: Int, before end: Int) -> Int? {
    first(from: start, before: end, inverting: 0)
  }

  private func first(from start: Int, before end: Int, inverting mask: UInt64) -> Int? {
    invariant(start >= 0 && end <= pageCount, "a bitmap search lies inside the bitmap")
    guard start < end else { return nil }
    var position = start >> 6
    let last = (end - 1) >> 6
    var word = (words[position] ^ mask) & (~0 << UInt64(start & 63))
    while true {
      if word != 0 {
        let found = (position << 6) + word.trailingZeroBitCount
        return found < end ? found : nil
      }
      position += 1
      if position > last { return nil }
      word = words[position] ^ mask
    }
  }
}
