// Fixed-width integers in a byte layout that both hosts share, bounds checked, without alignment.
// They stand here and not in `Wire` because the span's unaligned load counts as unsafe.

extension RawSpan {
  /// The little-endian integer whose first byte stands at `offsetBytes`; must lie inside the span.
  @inlinable
  @inline(__always)
  public func loadLittleEndian<Integer: FixedWidthInteger & BitwiseCopyable>(
    at offsetBytes: Int, as type: Integer.Type = Integer.self
  ) -> Integer {
    // unsafe: every bit pattern is an integer, and the load itself checks the span's bounds.
    Integer(littleEndian: unsafe unsafeLoadUnaligned(fromByteOffset: offsetBytes, as: type))
  }
}

extension MutableRawSpan {
  /// Writes the integer little-endian from `offsetBytes` on; must lie inside the span.
  @inlinable
  @inline(__always)
  @_lifetime(self: copy self)
  public mutating func storeLittleEndian<Integer: FixedWidthInteger & BitwiseCopyable>(
    _ value: Integer, at offsetBytes: Int
  ) {
    storeBytes(of: value.littleEndian, toByteOffset: offsetBytes, as: Integer.self)
  }
}

extension Array where Element == UInt8 {
  /// Appends the integer's bytes, the lowest first.
  @inlinable
  public mutating func appendLittleEndian<Integer: FixedWidthInteger>(_ value: Integer) {
    for byte in 0..<(Integer.bitWidth / 8) {
      append(UInt8(truncatingIfNeeded: value >> Integer(8 * byte)))
    }
  }
}

extension Array where Element == UInt8 {
  /// The array's bytes as a raw span, for as long as the array is not changed.
  @inlinable
  public var rawBytes: RawSpan {
    @_lifetime(borrow self)
    get {
      // unsafe: reading raw bytes needs them initialised; every byte of an array of bytes is.
      unsafe span.bytes
    }
  }
}

extension Array where Element == UInt8 {
  /// Lets `body` write into the array's bytes.
  @inlinable
  public mutating func withMutableRawBytes<Result, Failure: Error>(
    _ body: (inout MutableRawSpan) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    var span = mutableSpan
    // unsafe: raw bytes of any value may be written into an array of bytes.
    var bytes = unsafe span.mutableBytes
    return try body(&bytes)
  }
}
