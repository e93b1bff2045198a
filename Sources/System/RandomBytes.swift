internal import CLinux

/// Bytes that nobody can predict, from the kernel: for session ids and tokens.
public enum RandomBytes {
  /// `count` bytes. Waits for the kernel's generator only in the first seconds after boot.
  public static func make(_ count: Int) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var filled = 0
    while filled < count {
      var span = bytes.mutableSpan
      // unsafe: `filled` is below the span's length, which bounds what getrandom writes.
      let result = unsafe span.withUnsafeMutableBytes {
        unsafe clinux_getrandom($0.baseAddress! + filled, count - filled)
      }
      if result > 0 {
        filled += result
      } else if Errno.current != .interrupted {
        throw SystemError("getrandom")
      }
    }
    return bytes
  }
}
