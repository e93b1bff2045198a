internal import Glibc
internal import Pages

/// Memory of our own that bytes travel through: received here, installed or sent from here.
@safe
public struct TransferBuffer: ~Copyable, Sendable {
  private let mapping: MemoryMapping

  /// `byteCount` zeroed bytes.
  public init(byteCount: Int) throws(SystemError) {
    mapping = try MemoryMapping(anonymousByteCount: byteCount)
  }

  /// How many bytes.
  public var byteCount: Int { mapping.byteCount }

  /// The bytes of a range.
  @_lifetime(borrow self)
  public borrowing func bytes(_ range: Range<Int>) -> RawSpan {
    check(range)
    // unsafe: the range is mapped as long as self lives, which the lifetime says.
    let part = unsafe UnsafeRawBufferPointer(rebasing: mapping.bytes[range])
    return unsafe _overrideLifetime(RawSpan(_unsafeBytes: part), borrowing: self)
  }

  /// A range, to write.
  @_lifetime(&self)
  public mutating func mutableBytes(_ range: Range<Int>) -> MutableRawSpan {
    check(range)
    // unsafe: as in `bytes`; exclusive because self is borrowed mutably.
    let part = unsafe UnsafeMutableRawBufferPointer(rebasing: mapping.bytes[range])
    return unsafe _overrideLifetime(MutableRawSpan(_unsafeBytes: part), mutating: &self)
  }

  /// Copies bytes in.
  public mutating func store(_ bytes: RawSpan, at offset: Int) {
    check(offset..<offset + bytes.byteCount)
    unsafe bytes.withUnsafeBytes { source in
      guard let address = source.baseAddress else { return }
      // unsafe: both ranges are valid and as long as the count; the target was just checked.
      unsafe memcpy(mapping.base + offset, address, source.count)
    }
  }

  /// Appends the bytes of a range to an array.
  public borrowing func append(_ range: Range<Int>, to array: inout [UInt8]) {
    check(range)
    // unsafe: the range was just checked to be mapped.
    unsafe array.append(contentsOf: UnsafeRawBufferPointer(rebasing: mapping.bytes[range]))
  }

  /// Moves bytes inside the buffer; the ranges may overlap.
  public mutating func move(_ source: Range<Int>, to target: Int) {
    check(source)
    check(target..<target + source.count)
    // unsafe: both ranges were just checked to be mapped.
    unsafe memmove(mapping.base + target, mapping.base + source.lowerBound, source.count)
  }

  /// Where a range starts, for the kernel: valid as long as the buffer lives.
  public borrowing func address(_ range: Range<Int>) -> UnsafeMutableRawPointer {
    check(range)
    // unsafe: inside the mapping.
    return unsafe mapping.base + range.lowerBound
  }

  private func check(_ range: Range<Int>) {
    invariant(
      range.lowerBound >= 0 && range.upperBound <= mapping.byteCount,
      "a range lies in its transfer buffer")
  }
}
