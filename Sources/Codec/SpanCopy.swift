internal import Pages

// Whole stretches at once. The standard library of this release has no call for it on raw spans.

extension MutableRawSpan {
  /// Copies all of `source` to `offsetBytes`; must fit.
  @_lifetime(self: copy self)
  public mutating func copyBytes(of source: RawSpan, at offsetBytes: Int) {
    invariant(
      offsetBytes >= 0 && source.byteCount <= byteCount - offsetBytes,
      "bytes are copied inside a span")
    // unsafe: the target was just checked; a span that is being written shares no bytes with
    // another that is being read.
    unsafe withUnsafeMutableBytes { target in
      unsafe source.withUnsafeBytes { bytes in
        guard bytes.count > 0 else { return }
        unsafe UnsafeMutableRawBufferPointer(rebasing: target[offsetBytes...]).copyMemory(
          from: bytes)
      }
    }
  }

  /// Makes a range zero; must lie inside the span.
  @_lifetime(self: copy self)
  public mutating func clearBytes(_ range: Range<Int>) {
    invariant(
      range.lowerBound >= 0 && range.upperBound <= byteCount, "bytes are cleared inside a span")
    guard !range.isEmpty else { return }
    // unsafe: the range was just checked.
    unsafe withUnsafeMutableBytes { target in
      let part = unsafe UnsafeMutableRawBufferPointer(rebasing: target[range])
      unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
    }
  }
}
