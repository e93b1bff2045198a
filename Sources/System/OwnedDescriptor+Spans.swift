internal import CLinux
internal import Glibc
internal import Pages

extension OwnedDescriptor {
  /// One pread(2) into `bytes` from `offsetInSpan` on: how many bytes came, 0 at the end of the
  /// file. Allocates nothing, a failure included; a signal is not one.
  @_lifetime(bytes: copy bytes)
  public borrowing func read(
    into bytes: inout MutableRawSpan, from offsetInSpan: Int, atOffset offset: UInt64
  ) throws(Errno) -> Int {
    let number = rawValue
    return try unsafe bytes.withUnsafeMutableBytes { buffer throws(Errno) in
      invariant(offsetInSpan < buffer.count, "a read has room for at least one byte")
      while true {
        // unsafe: the offset lies inside the span, whose rest bounds the read.
        let count = unsafe pread(
          number, buffer.baseAddress! + offsetInSpan, buffer.count - offsetInSpan, off_t(offset))
        if count >= 0 { return count }
        guard Errno.current == .interrupted else { throw .current }
      }
    }
  }

  /// Writes all of `bytes` at `offset`, in as many calls as it takes. Allocates nothing, a failure
  /// included; a signal is not one.
  public borrowing func writeAll(_ bytes: RawSpan, atOffset offset: UInt64) throws(Errno) {
    let number = rawValue
    try unsafe bytes.withUnsafeBytes { buffer throws(Errno) in
      var done = 0
      while done < buffer.count {
        // unsafe: `done` is below the span's length, whose rest bounds the write.
        let count = unsafe pwrite(
          number, buffer.baseAddress! + done, buffer.count - done, off_t(offset) + done)
        if count > 0 {
          done += count
        } else if count == 0 {
          // No file system answers 0 to a write of some bytes; looping on it would never end.
          throw .inputOutput
        } else if Errno.current != .interrupted {
          throw .current
        }
      }
    }
  }

  /// Gives the memory or the blocks of a range back: it reads as zeros. The length stays.
  public borrowing func punchHole(_ range: Range<UInt64>) throws(Errno) {
    let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    while fallocate(rawValue, mode, off_t(range.lowerBound), off_t(range.count)) < 0 {
      guard Errno.current == .interrupted else { throw .current }
    }
  }

  /// Where the next stretch of data at or after `offset` starts (SEEK_DATA); nil when only a hole
  /// is left before the end.
  public borrowing func nextData(from offset: UInt64) throws(Errno) -> UInt64? {
    try seek(from: offset, SEEK_DATA)
  }

  /// Where the next hole at or after `offset` starts (SEEK_HOLE): at the latest at the end of the
  /// file; nil when `offset` is not inside the file.
  public borrowing func nextHole(from offset: UInt64) throws(Errno) -> UInt64? {
    try seek(from: offset, SEEK_HOLE)
  }

  private borrowing func seek(from offset: UInt64, _ whence: Int32) throws(Errno) -> UInt64? {
    let result = lseek(rawValue, off_t(offset), whence)
    if result >= 0 { return UInt64(result) }
    // ENXIO: nothing of the kind up to the end of the file.
    guard Errno.current.rawValue == ENXIO else { throw .current }
    return nil
  }
}
