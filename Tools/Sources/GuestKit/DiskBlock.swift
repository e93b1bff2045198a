internal import Glibc
public import System

/// What a disk of the test VMM holds: blocks that each say which one they are.
public enum DiskBlock {
  /// As a page, so that a block is read into one.
  public static let byteCount = PageContent.byteCount
  /// Fewer would often give a page the block that it holds already.
  public static let minimumCount: UInt64 = 64
  private static let seed: UInt64 = 0x6469_736b

  /// The content of a block, counted from 1. Number 0 is none: zeros.
  public static func content(_ number: UInt64) -> PageContent {
    PageContent(id: number, version: number == 0 ? 0 : 1, seed: seed)
  }

  /// Why the 4 KiB at `page` are not that block, in words.
  static func difference(_ page: UnsafeRawPointer, from number: UInt64) -> String {
    // unsafe: the caller gives 4 KiB of readable memory.
    let first = unsafe page.load(as: UInt64.self)
    let found = unsafe content(first).matches(page) ? "block \(first)" : "no whole block"
    return "the disk has read block \(number) into it, and it holds \(found)"
  }

  /// Makes the file of a disk, which must not exist.
  public static func makeFile(path: String, byteCount: UInt64) throws(SystemError) {
    let file = try OwnedDescriptor.open(path, flags: O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    var bytes = [UInt8](repeating: 0, count: blocksPerWrite * Self.byteCount)
    // Rounded down: half a block is none.
    let blockCount = byteCount / UInt64(Self.byteCount)
    var done: UInt64 = 0
    while done < blockCount {
      let count = min(blocksPerWrite, Int(blockCount - done))
      // unsafe: the array has room for so many blocks.
      unsafe bytes.withUnsafeMutableBytes { bytes in
        for index in 0..<count {
          unsafe content(done + UInt64(index) + 1)
            .fill(bytes.baseAddress! + index * Self.byteCount)
        }
      }
      try file.writeAll(
        Array(bytes.prefix(count * Self.byteCount)), atOffset: done * UInt64(Self.byteCount),
        operand: path)
      done += UInt64(count)
    }
    // Direct I/O passes the page cache by, and would wait for it block by block.
    guard fsync(file.rawValue) == 0 else { throw SystemError("fsync", path) }
  }

  private static let blocksPerWrite = 256
}
