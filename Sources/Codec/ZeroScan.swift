internal import CISAL

/// Finds memory that holds nothing but zeros, so that it need not be sent; scanned by ISA-L.
public enum ZeroScan {
  /// Whether every byte is zero; true for no bytes. A page with other content is usually told by
  /// its first 64 bytes, a zero page costs one read of it.
  public static func isZero(_ bytes: RawSpan) -> Bool {
    // unsafe: ISA-L's parameter lacks a const, but it only reads (mem_routines.h: "memory region
    // to test"); the span guarantees that its bytes live and do not change during the closure.
    unsafe bytes.withUnsafeBytes { buffer in
      guard let base = buffer.baseAddress, buffer.count > 0 else { return true }
      return unsafe isal_zero_detect(UnsafeMutableRawPointer(mutating: base), buffer.count) == 0
    }
  }
}
