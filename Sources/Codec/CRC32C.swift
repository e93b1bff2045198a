internal import CISAL
internal import Pages

/// CRC-32C (Castagnoli), the checksum of iSCSI, ext4 and of our frames; computed by ISA-L.
///
/// Feed it piece by piece; `value` is that of all bytes so far. It detects every error burst of up
/// to 32 bits and every change of up to three bits in anything that a frame can carry. It is no
/// protection against somebody who changes bytes on purpose: that is TLS's work.
@frozen
public struct CRC32C: Hashable, Sendable {
  /// The shift register, kept without the final inversion.
  @usableFromInline var register: UInt32

  /// The checksum of no bytes.
  @inlinable
  public init() { register = ~0 }

  /// Goes on from a checksum that was taken with `value` earlier.
  @inlinable
  public init(continuing value: UInt32) { register = ~value }

  /// The checksum of all bytes so far, as it stands on the wire.
  @inlinable
  public var value: UInt32 { ~register }

  /// Adds the bytes behind those so far.
  public mutating func update(_ bytes: RawSpan) {
    register = Self.advance(register, over: bytes)
  }

  /// The checksum of one contiguous piece; about 1.3 µs for 64 KiB that is
  /// in the cache (AMD EPYC, virtual, 2026-11-21).
  public static func checksum(of bytes: RawSpan) -> UInt32 { ~advance(~0, over: bytes) }

  /// The checksum of the first `byteCount` bytes of memory that is being written.
  public static func checksum(
    ofFirst byteCount: Int, in bytes: borrowing MutableRawSpan
  ) -> UInt32 {
    checksum(of: bytes.bytes.extracting(first: byteCount))
  }

  private static func advance(_ register: UInt32, over bytes: RawSpan) -> UInt32 {
    invariant(bytes.byteCount <= Int(Int32.max), "ISA-L takes lengths below 2 GiB")
    // unsafe: ISA-L's parameter lacks a const, but it only reads (crc.h: "buffer to calculate CRC
    // on"); the span guarantees that its bytes live and do not change during the closure.
    return unsafe bytes.withUnsafeBytes { buffer in
      guard let base = buffer.baseAddress, buffer.count > 0 else { return register }
      let start = unsafe UnsafeMutablePointer(
        mutating: base.assumingMemoryBound(to: UInt8.self))
      return unsafe crc32_iscsi(start, Int32(buffer.count), register)
    }
  }
}
