internal import Pages

/// Memory for frames and pages, page aligned, that one thread owns and lends out as spans.
@safe
public struct PageBuffer: ~Copyable, Sendable {
  private let mapping: MemoryMapping

  /// How many bytes it has.
  public var byteCount: Int { mapping.byteCount }

  /// Zeroed memory of its own.
  public init(byteCount: Int) throws(SystemError) {
    mapping = try MemoryMapping(anonymousByteCount: byteCount)
  }

  /// The bytes of a range, to be written.
  @_lifetime(&self)
  public mutating func mutableBytes(_ range: Range<Int>) -> MutableRawSpan {
    // unsafe: the mapping lives as long as self, which the span borrows exclusively.
    let span = unsafe MutableRawSpan(_unsafeBytes: part(range))
    return unsafe _overrideLifetime(span, mutating: &self)
  }

  /// The bytes of a range, to be read.
  @_lifetime(borrow self)
  public borrowing func bytes(_ range: Range<Int>) -> RawSpan {
    // unsafe: the mapping lives as long as self, which the span borrows.
    let span = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(part(range)))
    return unsafe _overrideLifetime(span, borrowing: self)
  }

  /// Moves the bytes of a range to the front: what is left of a stream once whole frames are taken.
  public mutating func moveToFront(_ range: Range<Int>) {
    // unsafe: both places lie inside the mapping; copyMemory allows them to overlap.
    unsafe mapping.bytes.baseAddress!.copyMemory(
      from: part(range).baseAddress!, byteCount: range.count)
  }

  private borrowing func part(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
    invariant(
      range.lowerBound >= 0 && range.upperBound <= byteCount, "a range lies inside its buffer")
    // unsafe: checked above.
    return unsafe UnsafeMutableRawBufferPointer(
      start: mapping.base + range.lowerBound, count: range.count)
  }
}
