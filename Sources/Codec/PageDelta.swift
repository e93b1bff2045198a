internal import Pages

/// What has changed of pages: their bytes XOR those before, zeros wherever nothing has.
///
/// A guest that writes a page again mostly changes little of it, as QEMU's XBZRLE makes use of too.
/// A delta packs to next to nothing by the encodings that there are, so that it needs none of its
/// own. Pages are whole ones: all lengths are multiples of eight bytes.
public enum PageDelta {
  /// Whether two equally long stretches of pages are the same.
  public static func areEqual(_ pages: RawSpan, _ others: RawSpan) -> Bool {
    check(pages.byteCount, others.byteCount)
    var start = 0
    while start < pages.byteCount {
      // Stretches without a branch: they go as wide as the processor can.
      let end = min(start + stretchByteCount, pages.byteCount)
      var delta: UInt64 = 0
      for offset in stride(from: start, to: end, by: 8) {
        delta |= load(pages, offset) ^ load(others, offset)
      }
      if delta != 0 { return false }
      start = end
    }
    return true
  }

  /// Writes what has changed of `pages` since they were `base` to a place in `target`.
  public static func write(
    _ pages: RawSpan, since base: RawSpan, to target: inout MutableRawSpan, at start: Int
  ) {
    check(pages.byteCount, base.byteCount)
    invariant(
      start >= 0 && pages.byteCount <= target.byteCount - start, "a delta has room in its target")
    for offset in stride(from: 0, to: pages.byteCount, by: 8) {
      let delta = load(pages, offset) ^ load(base, offset)
      // unsafe: inside the target, as was checked; any bits are an integer.
      unsafe target.storeBytes(
        of: delta, toUncheckedByteOffset: start + offset, as: UInt64.self)
    }
  }

  /// Makes the pages of a delta, in its place: what they were is `base`.
  public static func apply(_ pages: inout MutableRawSpan, to base: RawSpan) {
    check(pages.byteCount, base.byteCount)
    for offset in stride(from: 0, to: pages.byteCount, by: 8) {
      let page = load(pages.bytes, offset) ^ load(base, offset)
      // unsafe: inside the span; any bits are an integer.
      unsafe pages.storeBytes(of: page, toUncheckedByteOffset: offset, as: UInt64.self)
    }
  }

  private static let stretchByteCount = 256

  private static func check(_ byteCount: Int, _ baseByteCount: Int) {
    invariant(
      byteCount == baseByteCount && byteCount & 7 == 0, "a delta is of equally long whole pages")
  }

  @inline(__always)
  private static func load(_ bytes: RawSpan, _ offset: Int) -> UInt64 {
    // unsafe: callers stay inside; any bits are an integer.
    unsafe bytes.unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: UInt64.self)
  }
}
