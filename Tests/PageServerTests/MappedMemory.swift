import Glibc
import Pages
import System
import UFFD
import VMM

@testable import PageServer

private let tracking: UserfaultFeatures = [
  .writeProtectFaults, .writeProtectSharedMemory, .writeProtectUnpopulated,
  .asynchronousWriteProtect,
]

/// Whether this kernel lets us have writes noted.
let hasWriteTracking =
  (try? UserfaultDescriptor.offeredFeatures())?.isSuperset(of: tracking) ?? false

/// A memory that this process has mapped: a file, or its own.
// Tests that have other threads write to it say when these have ended.
@safe
final class MappedMemory: @unchecked Sendable {
  let file: TestMemory?
  let base: UnsafeMutableRawPointer
  let pageCount: Int
  let pageByteCount: Int
  let backing: any MemoryBacking
  let seeds = SentSeeds(deltaCacheByteCount: 0)

  var byteCount: Int { pageCount * pageByteCount }

  init(pageCount: Int, isShared: Bool, isHuge: Bool = false) throws {
    self.pageCount = pageCount
    pageByteCount = isHuge ? 2 << 20 : 4096
    let byteCount = pageCount * pageByteCount
    file = isShared ? try TestMemory(pageCount: pageCount, isHuge: isHuge) : nil
    // unsafe: a new mapping, unmapped in deinit.
    let flags = isShared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS
    let address = unsafe mmap(
      nil, byteCount, PROT_READ | PROT_WRITE, flags, file?.descriptor.rawValue ?? -1, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError("mmap")
    }
    unsafe base = address
    // A huge page would make its neighbours written.
    _ = unsafe madvise(base, byteCount, MADV_NOHUGEPAGE)
    if let file {
      backing = try file.open()
    } else {
      let start = UInt64(UInt(bitPattern: address))
      backing = try MemorySource.process(
        pid: getpid(), ranges: [start..<start + UInt64(byteCount)]
      ).open()
    }
  }

  deinit { unsafe munmap(base, byteCount) }

  var range: HostRange {
    unsafe HostRange(
      start: HostAddress(UnsafeRawPointer(base)), byteCount: ByteCount(byteCount))
  }

  func write(_ value: UInt8, page: Int) {
    unsafe base.storeBytes(of: value, toByteOffset: page * pageByteCount + 100, as: UInt8.self)
  }

  func copy(_ pages: some Sequence<Int>, to copy: inout [UInt8]) {
    for page in pages {
      let bytes = unsafe UnsafeRawBufferPointer(start: base + page * 4096, count: 4096)
      unsafe copy.replaceSubrange(page * 4096..<(page + 1) * 4096, with: bytes)
    }
  }

  /// Pages that are others than in a copy.
  func differences(from copy: [UInt8]) -> [Int] {
    (0..<byteCount / 4096).filter { page in
      unsafe copy.withUnsafeBytes { bytes in
        unsafe memcmp(bytes.baseAddress! + page * 4096, base + page * 4096, 4096) != 0
      }
    }
  }

  /// What the VM reads there.
  func read(page: Int) -> UInt8 {
    unsafe base.load(fromByteOffset: page * pageByteCount + 100, as: UInt8.self)
  }

  /// Gives pages back as a guest's balloon does.
  func drop(_ pages: Range<Int>, _ advice: Int32? = nil) {
    let usual = file == nil ? MADV_DONTNEED : MADV_REMOVE
    advise(pages, advice ?? usual)
  }

  func advise(_ pages: Range<Int>, _ advice: Int32) {
    // unsafe: the pages are those of the mapping.
    let result = unsafe madvise(
      base + pages.lowerBound * pageByteCount, pages.count * pageByteCount, advice)
    precondition(result == 0)
  }

  /// Other tests of this process open files and rings as they like. None here makes large pages of
  /// small ones, whatever the host says.
  func log(
    pause: LookPause? = nil, hasDirectIO: @escaping @Sendable () -> Bool = { false },
    hugePages: String? = "never"
  ) throws -> PagemapLog? {
    try PagemapLog.make(
      vmName: "test", processID: getpid(), backing, backing.naturalLayout,
      punches: seeds.punches, pause: pause, hasDirectIO: { _ in hasDirectIO() },
      hugePageSetting: { _, _ in hugePages })
  }

  func register() throws -> UserfaultDescriptor {
    let descriptor = try UserfaultDescriptor(requiring: tracking)
    _ = try descriptor.handle.register(range, modes: .writeProtect)
    return descriptor
  }
}
