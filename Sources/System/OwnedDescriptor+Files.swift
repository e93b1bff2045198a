internal import CLinux
internal import Glibc

extension OwnedDescriptor {
  /// Reads what is there, up to the array's length: 0 at the end. A signal is not an error.
  /// `operand` names the file in the error.
  public borrowing func read(
    into bytes: inout [UInt8], operand: String
  ) throws(SystemError) -> Int {
    var span = bytes.mutableSpan
    while true {
      // unsafe: the span is as long as read is told, and borrowed for the call.
      let count = unsafe span.withUnsafeMutableBytes {
        unsafe Glibc.read(rawValue, $0.baseAddress, $0.count)
      }
      if count >= 0 { return count }
      guard Errno.current == .interrupted else { throw SystemError("read", operand) }
    }
  }

  /// Reads `byteCount` bytes at `offset`; fewer only where the file ends.
  public borrowing func read(
    byteCount: Int, atOffset offset: UInt64, operand: String
  ) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: byteCount)
    var filled = 0
    while filled < byteCount {
      var span = bytes.mutableSpan
      // unsafe: `filled` is below the span's length, which bounds the read.
      let count = unsafe span.withUnsafeMutableBytes {
        unsafe pread(
          rawValue, $0.baseAddress! + filled, byteCount - filled, off_t(offset) + filled)
      }
      if count == 0 { break }
      if count > 0 {
        filled += count
      } else if Errno.current != .interrupted {
        throw SystemError("pread", "\(operand) at \(offset)")
      }
    }
    return Array(bytes[..<filled])
  }

  /// Writes all the bytes at `offset`, in as many calls as it takes.
  public borrowing func writeAll(
    _ bytes: [UInt8], atOffset offset: UInt64, operand: String
  ) throws(SystemError) {
    var done = 0
    while done < bytes.count {
      // unsafe: `done` is below the span's length, which bounds the write.
      let count = unsafe bytes.span.withUnsafeBytes {
        unsafe pwrite(rawValue, $0.baseAddress! + done, bytes.count - done, off_t(offset) + done)
      }
      if count > 0 {
        done += count
      } else if count == 0 {
        // No file system answers 0 to a write of some bytes; looping on it would never end.
        throw SystemError("pwrite", "\(operand) at \(offset)", .inputOutput)
      } else if Errno.current != .interrupted {
        throw SystemError("pwrite", "\(operand) at \(offset)")
      }
    }
  }

  /// Returns when the contents, and the length needed to read them, are on stable storage.
  public borrowing func synchronizeContents(operand: String) throws(SystemError) {
    guard fdatasync(rawValue) == 0 else { throw SystemError("fdatasync", operand) }
  }

  /// Returns when contents and all metadata are on stable storage.
  public borrowing func synchronize(operand: String) throws(SystemError) {
    guard fsync(rawValue) == 0 else { throw SystemError("fsync", operand) }
  }

  /// Cuts or extends the file; what is added is a hole that reads as zeros.
  public borrowing func setByteCount(_ byteCount: UInt64, operand: String) throws(SystemError) {
    guard ftruncate(rawValue, off_t(byteCount)) == 0 else {
      throw SystemError("ftruncate", operand)
    }
  }

  /// Extends the file to `byteCount` and takes the space now: a later write through a mapping
  /// cannot run into a full file system, which would be a SIGBUS.
  public borrowing func reserve(byteCount: UInt64, operand: String) throws(SystemError) {
    let result = posix_fallocate(rawValue, 0, off_t(byteCount))
    guard result == 0 else { throw SystemError("fallocate", operand, Errno(rawValue: result)) }
  }
}
