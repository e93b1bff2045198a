import Codec
import Glibc
import Testing

/// Slots and mappings end at page borders: no vector instruction may read past the last byte, nor
/// before the first.
@Suite struct GuardPageTests {
  static let pageByteCount = 4096

  /// Gives `body` a page of zeros between two pages whose touch kills the process.
  private func withGuardedPage(_ body: (UnsafeMutableRawBufferPointer) -> Void) throws {
    let length = 3 * Self.pageByteCount
    // unsafe: a fresh anonymous mapping that nobody else knows; unmapped after the last use.
    let mapping = unsafe mmap(nil, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let base = unsafe mapping, unsafe base != MAP_FAILED else {
      Issue.record("mmap failed with errno \(errno)")
      return
    }
    defer { unsafe munmap(base, length) }
    let page = unsafe base + Self.pageByteCount
    let result = unsafe mprotect(page, Self.pageByteCount, PROT_READ | PROT_WRITE)
    try #require(result == 0)
    // unsafe: exactly the readable page.
    unsafe body(UnsafeMutableRawBufferPointer(start: page, count: Self.pageByteCount))
  }

  @Test func nothingOutsideTheSpanIsRead() throws {
    let piece = 600
    // unsafe: the page is used inside the closure only.
    unsafe try withGuardedPage { page in
      for count in 0...piece {
        for start in [0, Self.pageByteCount - count] {
          // unsafe: inside the page, which lives until the closure ends and nobody writes.
          let bytes = unsafe UnsafeRawBufferPointer(rebasing: page[start..<start + count])
          let (isZero, checksum) = unsafe (
            ZeroScan.isZero(bytes.bytes), CRC32C.checksum(of: bytes.bytes)
          )
          #expect(isZero)
          #expect(checksum == CRC32CTests.bitwise(repeatElement(0, count: count)))
        }
      }
    }
  }
}
