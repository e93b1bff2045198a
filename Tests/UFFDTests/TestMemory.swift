import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

/// The kinds of memory that a VM may have.
enum MemoryKind: String, CaseIterable, CustomTestStringConvertible, Sendable {
  case anonymous, shmem, privateShmem, hugetlb, privateHugetlb

  var testDescription: String { rawValue }
  var isHugetlb: Bool { self == .hugetlb || self == .privateHugetlb }
  var isShared: Bool { self == .shmem || self == .hugetlb }
  /// Whether the kernel keeps marks of protection when page tables are dropped.
  var isFileBacked: Bool { self != .anonymous }
  var pageSize: PageSize { isHugetlb ? .huge : .small }

  /// Shared memory is where minor faults are.
  static let shared: [MemoryKind] = allCases.filter(\.isShared)

  /// Ends the test as skipped where this machine has no such memory.
  func require() throws {
    if isHugetlb, !Machine.hasHugePages { try Test.cancel("needs free 2 MiB pages") }
  }
}

/// A file in memory, closed with its last mapping.
final class MemoryFile: Sendable {
  private let descriptor: OwnedDescriptor

  var number: Int32 { descriptor.rawValue }

  init(byteCount: Int, isHugetlb: Bool) throws {
    let number = uffdtest_memory_file(UInt64(byteCount), isHugetlb ? 1 : 0)
    try #require(number >= 0, "a memory file can be made")
    self.descriptor = OwnedDescriptor(adopting: number)
  }

  /// A file on a tmpfs that has no room for more than `limitBytes`.
  init(byteCount: Int, limitBytes: Int) throws {
    // unsafe: the string lives as long as the call.
    let number = unsafe uffdtest_limited_tmpfs_file("\(limitBytes)")
    try #require(number >= 0, "a tmpfs can be made")
    self.descriptor = OwnedDescriptor(adopting: number)
    try #require(ftruncate(number, byteCount) == 0)
  }
}

/// A mapping of one kind, unmapped at the end, with a second mapping where it is shared.
struct TestMemory: ~Copyable {
  let kind: MemoryKind
  let pageCount: Int
  let base: HostAddress
  /// The same pages through another mapping, which no userfaultfd watches.
  let alias: HostAddress?
  let file: MemoryFile?

  /// `isMoved`: the test moves a part elsewhere. Linux (6.18 here) never gives back what was set
  /// aside for a private mapping of huge pages of which mremap(2) took a part; so nothing is.
  init(
    _ kind: MemoryKind, pageCount: Int = 4, file: MemoryFile? = nil, isMoved: Bool = false
  ) throws {
    try kind.require()
    let byteCount = pageCount * kind.pageSize.byteCount
    let file =
      kind == .anonymous
      ? nil : try file ?? MemoryFile(byteCount: byteCount, isHugetlb: kind.isHugetlb)
    let number = file?.number ?? -1
    let flags =
      (kind.isShared ? MAP_SHARED : MAP_PRIVATE) | (number < 0 ? MAP_ANONYMOUS : 0)
      | (isMoved ? MAP_NORESERVE : 0)
    let base = try Self.map(byteCount, flags, number)
    let alias = kind.isShared ? try Self.map(byteCount, flags, number) : nil
    self.base = base
    self.alias = alias
    self.kind = kind
    self.pageCount = pageCount
    self.file = file
  }

  /// What a test has taken out: it may be somebody else's memory by now, also another test's.
  private let holes = Lock<[HostRange]>([])

  deinit {
    let holes = holes.withLock { $0 }
    for index in 0..<pageCount where !holes.contains(where: { $0.overlaps(pages(index)) }) {
      // unsafe: mapped in init, and still ours.
      unsafe munmap(pages(index).start.pointer, kind.pageSize.byteCount)
    }
    // unsafe: mapped in init with this length.
    if let alias { unsafe munmap(alias.pointer, byteCount) }
  }

  /// Notes that a part was unmapped, or moved elsewhere.
  func noteHole(_ range: HostRange) { holes.withLock { $0.append(range) } }

  /// Unmaps a part; what munmap(2) answered.
  func unmap(_ range: HostRange) -> Int32 {
    noteHole(range)
    // unsafe: the part is the test's own, and nobody uses it any more.
    return unsafe munmap(range.start.pointer, Int(range.byteCount.rawValue))
  }

  var byteCount: Int { pageCount * kind.pageSize.byteCount }
  var range: HostRange { HostRange(start: base, byteCount: ByteCount(byteCount)) }

  /// `count` pages from the one at `index` on.
  func pages(_ index: Int, count: Int = 1) -> HostRange {
    let size = kind.pageSize.byteCount
    return HostRange(
      start: base.advanced(by: ByteCount(index * size)), byteCount: ByteCount(count * size))
  }

  /// The address of the page at `index` in the second mapping.
  func aliasAddress(_ index: Int) throws -> HostAddress {
    try #require(alias).advanced(by: ByteCount(index * kind.pageSize.byteCount))
  }

  /// Takes the page at `index` out of the memory file.
  func punch(_ index: Int) throws {
    let file = try #require(file)
    let size = kind.pageSize.byteCount
    let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    let result = fallocate(file.number, mode, off_t(index * size), off_t(size))
    try #require(result == 0, "a page can be punched out of a memory file")
  }

  /// The content of a page that holds `byte` everywhere.
  func content(_ byte: UInt8, pageCount: Int = 1) -> [UInt8] {
    [UInt8](repeating: byte, count: pageCount * kind.pageSize.byteCount)
  }

  private static func map(
    _ byteCount: Int, _ flags: Int32, _ descriptor: Int32
  ) throws -> HostAddress {
    // unsafe: a new mapping is made where nothing is.
    let wish = unsafe UnsafeMutableRawPointer(
      bitPattern: UInt(uffdtest_remote_address(UInt64(byteCount))))
    let address = unsafe mmap(wish, byteCount, PROT_READ | PROT_WRITE, flags, descriptor, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError("mmap", "\(byteCount) bytes")
    }
    return unsafe HostAddress(address)
  }
}

extension HostAddress {
  /// For addresses of this process only.
  var pointer: UnsafeMutableRawPointer {
    unsafe UnsafeMutableRawPointer(bitPattern: UInt(rawValue))!
  }

  /// The 8 bytes here, through the page tables: this may fault and wait.
  func load() -> UInt64 { uffdtest_load(rawValue) }

  /// Writes the 8 bytes here: this may fault and wait.
  func store(_ value: UInt64) { uffdtest_store(rawValue, value) }
}

extension HostRange {
  /// madvise(2) on it: 0, or its errno.
  func advise(_ advice: Int32) -> Int32 {
    // unsafe: the range is a test's own memory.
    unsafe madvise(start.pointer, Int(byteCount.rawValue), advice) == 0 ? 0 : errno
  }
}

/// The 8 bytes of a page that holds `byte` everywhere.
func word(_ byte: UInt8) -> UInt64 { 0x0101_0101_0101_0101 * UInt64(byte) }

extension UserfaultHandle {
  /// Copies `bytes`, whole pages, to `base`.
  func copy(
    _ bytes: [UInt8], to base: HostAddress, waking: Bool = true, writeProtected: Bool = false
  ) throws(UFFDError) -> RangeOutcome {
    // unsafe: the array outlives the call.
    try unsafe copy(
      bytes.span.bytes, to: base, waking: waking, writeProtected: writeProtected)
  }
}
