public import Pages
public import Synchronization

/// One bit for each page of an image, by flat index, that several threads set and read without a
/// lock. Bits are only ever set, but for `removeAll`.
@safe
public final class AtomicPageBitmap: @unchecked Sendable {
  /// How many pages it covers.
  public let pageCount: Int
  @usableFromInline let wordCount: Int
  // Allocated in init, freed in deinit, never moved: atomics need an address of their own.
  @usableFromInline let words: UnsafeMutablePointer<Atomic<UInt64>>

  /// A bitmap of `pageCount` pages with no bit set.
  public init(pageCount: Int) {
    invariant(pageCount > 0, "a bitmap that threads share covers at least one page")
    self.pageCount = pageCount
    // Rounded up: the last word may be partly used, its unused bits stay 0.
    wordCount = (pageCount + 63) / 64
    unsafe words = .allocate(capacity: wordCount)
    for index in 0..<wordCount { unsafe (words + index).initialize(to: Atomic(0)) }
  }

  // unsafe: the last reference is gone, so no thread uses the words.
  deinit {
    unsafe words.deinitialize(count: wordCount)
    unsafe words.deallocate()
  }

  /// Whether the page's bit is set.
  @inlinable
  public func contains(_ index: Int) -> Bool {
    checkIndex(index)
    return word(index >> 6) & (1 << UInt64(index & 63)) != 0
  }

  /// Sets the bit; true for the one caller that found it clear.
  @inlinable
  public func insert(_ index: Int) -> Bool {
    checkIndex(index)
    let mask: UInt64 = 1 << UInt64(index & 63)
    // unsafe: the index was checked against the words. The bit orders nothing but itself: what is
    // sent is read from memory that nobody changes.
    let before = unsafe words[index >> 6].bitwiseOr(mask, ordering: .relaxed).oldValue
    return before & mask == 0
  }

  /// Clears every bit. For a time in which no other thread uses the bitmap.
  public func removeAll() {
    // unsafe: every word was initialized.
    for index in 0..<wordCount { unsafe words[index].store(0, ordering: .relaxed) }
  }

  /// Sets all bits of the range; how many of them were clear.
  public func insert(_ range: Range<Int>) -> Int {
    invariant(
      range.lowerBound >= 0 && range.upperBound <= pageCount, "a range lies inside the bitmap")
    var inserted = 0
    var index = range.lowerBound
    while index < range.upperBound {
      let bit = index & 63
      let count = min(64 - bit, range.upperBound - index)
      let ones: UInt64 = count == 64 ? ~0 : (1 << UInt64(count)) - 1
      let mask = ones << UInt64(bit)
      // unsafe: the range was checked against the words.
      let before = unsafe words[index >> 6].bitwiseOr(mask, ordering: .relaxed).oldValue
      inserted += (mask & ~before).nonzeroBitCount
      index += count
    }
    return inserted
  }

  /// The first page in `start..<end` whose bit is clear (or set), as of about now.
  public func first(isSet: Bool, from start: Int, before end: Int) -> Int? {
    invariant(start >= 0 && end <= pageCount, "a bitmap search lies inside the bitmap")
    guard start < end else { return nil }
    let inversion: UInt64 = isSet ? 0 : ~0
    var position = start >> 6
    let last = (end - 1) >> 6
    var found = (word(position) ^ inversion) & (~0 << UInt64(start & 63))
    while found == 0 {
      position += 1
      if position > last { return nil }
      found = word(position) ^ inversion
    }
    let index = (position << 6) + found.trailingZeroBitCount
    return index < end ? index : nil
  }

  @inlinable
  func word(_ position: Int) -> UInt64 {
    // unsafe: every caller has checked its page index against the bitmap.
    unsafe words[position].load(ordering: .relaxed)
  }

  @inlinable
  func checkIndex(_ index: Int) {
    invariant(index >= 0 && index < pageCount, "a bitmap index lies inside the bitmap")
  }
}
