import CLinux
import Foundation
import Pages
import System

@testable import PageServer

/// A memfd with page contents that tell which page they are.
final class TestMemory: Sendable {
  static let page = 4096
  let descriptor: OwnedDescriptor
  let pageCount: Int
  let pageByteCount: Int

  var path: String { "/proc/self/fd/\(descriptor.rawValue)" }
  var source: MemorySource { .file(path: path) }

  /// Opens it as a backing; itself it lives on at least as long as that takes.
  func open() throws -> any MemoryBacking {
    try withExtendedLifetime(self) { try source.open() }
  }

  init(pageCount: Int, isHuge: Bool = false) throws {
    pageByteCount = isHuge ? 2 << 20 : Self.page
    self.pageCount = pageCount
    // unsafe: the name lives during the call.
    let number = unsafe memfd_create("test", isHuge ? UInt32(MFD_HUGETLB) : 0)
    guard number >= 0 else { throw SystemError("memfd_create") }
    descriptor = OwnedDescriptor(adopting: number)
    try descriptor.setByteCount(UInt64(pageCount * pageByteCount), operand: "test memory")
  }

  /// What page `index` holds: its number and a byte pattern; never zeros.
  static func content(_ index: Int, byteCount: Int = page) -> [UInt8] {
    var bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: index &* 31 | 1), count: byteCount)
    for byte in 0..<8 { bytes[byte] = UInt8(truncatingIfNeeded: index >> (8 * byte)) }
    bytes[byteCount - 1] = 0xEE
    return bytes
  }

  func content(_ index: Int) -> [UInt8] { Self.content(index, byteCount: pageByteCount) }

  func write(_ bytes: [UInt8], page index: Int) throws {
    guard pageByteCount == Self.page else { return try writeMapped(bytes, page: index) }
    try descriptor.writeAll(bytes, atOffset: UInt64(index * Self.page), operand: "test memory")
  }

  /// hugetlbfs has no write(2).
  private func writeMapped(_ bytes: [UInt8], page index: Int) throws {
    // unsafe: the mapping is as long as the file, and the page lies inside it.
    let byteCount = pageCount * pageByteCount
    let base = unsafe mmap(
      nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.rawValue, 0)
    guard let base = unsafe base, unsafe base != MAP_FAILED else { throw SystemError("mmap") }
    defer { unsafe munmap(base, byteCount) }
    unsafe memcpy(base + index * pageByteCount, bytes, bytes.count)
  }

  /// Writes the pages' own contents.
  func fill(_ pages: some Sequence<Int>) throws {
    for index in pages { try write(content(index), page: index) }
  }

  func punch(page index: Int) {
    let result = fallocate(
      descriptor.rawValue, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, index * pageByteCount,
      pageByteCount)
    precondition(result == 0)
  }

  /// How many 512-byte blocks hold data: tells whether reading has allocated anything.
  func blockCount() -> Int {
    var status = stat()
    unsafe fstat(descriptor.rawValue, &status)
    return Int(status.st_blocks)
  }
}

/// 2 MiB pages for one test, reserved if this process may; false when there are none.
let hasHugePages: Bool = {
  let path = "/proc/sys/vm/nr_hugepages"
  guard let text = FileSystem.text(ofSmallFile: path), let count = Int(text) else { return false }
  if count < 16 {
    // Only ever raised: others on this host may count on theirs.
    try? "16".write(toFile: path, atomically: false, encoding: .utf8)
  }
  return (try? TestMemory(pageCount: 4, isHuge: true).fill(0..<4)) != nil
    && (FileSystem.text(ofSmallFile: path).flatMap { Int($0) } ?? 0) >= 4
}()

extension MemoryBacking {
  /// Reads pages as one run; the bytes, or how far the sound ones go.
  func read(page: Int, count: Int = 1, pageByteCount: Int = 4096) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0xAA, count: count * pageByteCount)
    var span = bytes.mutableSpan
    var raw = unsafe span.mutableBytes
    let result = try read(
      into: &raw, at: UInt64(page * pageByteCount), pageByteCount: pageByteCount)
    precondition(result == .complete)
    return bytes
  }

  /// All absent memory of the image, in pages of 4 KiB.
  func absentPages() throws -> [Range<Int>] {
    var found: [Range<Int>] = []
    for region in naturalLayout.regions {
      let end = (region.imageOffset + region.byteCount).rawValue
      var position = region.imageOffset.rawValue
      while position < end {
        let next = try searchAbsent(in: position..<end) { absent in
          found.append(Int(absent.lowerBound / 4096)..<Int(absent.upperBound / 4096))
        }
        precondition(next > position)
        position = next
      }
    }
    return found
  }
}
