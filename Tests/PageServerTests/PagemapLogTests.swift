import Glibc
import Pages
import System
import Testing
import UFFD
import VMM

@testable import PageServer

private let tracking: UserfaultFeatures = [
  .writeProtectFaults, .writeProtectSharedMemory, .writeProtectUnpopulated,
  .asynchronousWriteProtect,
]

private let hasTracking =
  (try? UserfaultDescriptor.offeredFeatures())?.isSuperset(of: tracking) ?? false

/// What this process writes to memory of its own, as PAGEMAP_SCAN tells it.
@Suite(.enabled(if: hasTracking, "needs userfaultfd with asynchronous write protection"))
struct PagemapLogTests {
  /// A memory that this process has mapped: a file, or its own.
  @safe
  private final class Mapped {
    let file: TestMemory?
    let base: UnsafeMutableRawPointer
    let byteCount: Int
    let backing: any MemoryBacking

    init(pageCount: Int, isShared: Bool) throws {
      byteCount = pageCount * 4096
      file = isShared ? try TestMemory(pageCount: pageCount) : nil
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
      unsafe base.storeBytes(of: value, toByteOffset: page * 4096 + 100, as: UInt8.self)
    }

    /// Gives pages back as a guest's balloon does.
    func drop(_ pages: Range<Int>) {
      let advice = file == nil ? MADV_DONTNEED : MADV_REMOVE
      let result = unsafe madvise(base + pages.lowerBound * 4096, pages.count * 4096, advice)
      #expect(result == 0)
    }

    /// Other tests of this process open files and rings as they like.
    func log(hasDirectIO: Bool = false) throws -> PagemapLog? {
      try PagemapLog.make(
        vmName: "test", processID: getpid(), backing, backing.naturalLayout,
        hasDirectIO: { _ in hasDirectIO })
    }

    func register() throws -> UserfaultDescriptor {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      _ = try descriptor.handle.register(range, modes: .writeProtect)
      return descriptor
    }
  }

  private func written(_ log: PagemapLog, _ count: Int = 64) throws -> [Int] {
    let bits = try log.fetchDirtyLog()
    return (0..<count).filter { bits[$0 >> 3] & 1 << UInt8($0 & 7) != 0 }
  }

  @Test func whatIsWrittenIsTold() throws {
    let memory = try Mapped(pageCount: 64, isShared: false)
    for page in 0..<32 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let log = try #require(try memory.log())
    try log.startDirtyLog()
    #expect(try written(log) == [])
    // There and not there before.
    for page in [0, 5, 31, 40, 63] { memory.write(2, page: page) }
    #expect(try written(log) == [0, 5, 31, 40, 63])
    #expect(try written(log) == [])
    memory.write(3, page: 5)
    #expect(try written(log) == [5])
    try log.stopDirtyLog()
    withExtendedLifetime(descriptor.features) {}
  }

  /// They read as zeros from then on, whatever was sent of them.
  @Test func whatIsDroppedIsTold() throws {
    let memory = try Mapped(pageCount: 64, isShared: false)
    for page in 0..<32 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let log = try #require(try memory.log())
    try log.startDirtyLog()
    memory.drop(4..<7)
    #expect(try written(log) == [4, 5, 6])
    // Written and dropped again between two looks.
    memory.write(2, page: 5)
    memory.write(2, page: 50)
    memory.drop(5..<6)
    memory.drop(50..<51)
    #expect(Set([5, 50]).isSubset(of: try written(log)))
    #expect(try written(log).filter { (4..<7).contains($0) || $0 == 50 } == [])
    withExtendedLifetime(descriptor.features) {}
  }

  /// A memory of which most was never touched is not for ever written.
  @Test func whatWasNeverTouchedIsNotTold() throws {
    let memory = try Mapped(pageCount: 2048, isShared: false)
    memory.write(1, page: 1)
    let descriptor = try memory.register()
    let log = try #require(try memory.log())
    try log.startDirtyLog()
    #expect(try written(log, 2048) == [])
    // In a stretch without a page table.
    memory.write(1, page: 1800)
    #expect(try written(log, 2048) == [1800])
    withExtendedLifetime(descriptor.features) {}
  }

  @Test func memoryThatNobodyRegisteredIsRefused() throws {
    let memory = try Mapped(pageCount: 16, isShared: false)
    memory.write(1, page: 1)
    let log = try #require(try memory.log())
    #expect {
      try log.startDirtyLog()
    } throws: { error in
      (error as? VMMError)?.isCertainlyWithoutEffect ?? false
    }
  }

  /// What direct I/O writes behind a look is not seen.
  @Test func aProcessWithDirectIOIsRefused() throws {
    let memory = try Mapped(pageCount: 16, isShared: false)
    let descriptor = try memory.register()
    let log = try #require(try memory.log(hasDirectIO: true))
    #expect {
      try log.startDirtyLog()
    } throws: { error in
      "\(error)".contains("direct I/O")
    }
    withExtendedLifetime(descriptor.features) {}
  }

  /// Whoever registered it has gone, and perhaps comes again: nothing is taken for unwritten.
  @Test func aRecordThatIsLostBeginsAnewWithEverything() throws {
    let memory = try Mapped(pageCount: 64, isShared: false)
    for page in 0..<64 { memory.write(1, page: page) }
    let log = try #require(try memory.log())
    do {
      let first = try memory.register()
      try log.startDirtyLog()
      memory.write(2, page: 9)
      withExtendedLifetime(first.features) {}
    }
    #expect(throws: VMMError.self) { _ = try log.fetchDirtyLog() }
    let second = try memory.register()
    #expect(try written(log) == Array(0..<64))
    memory.write(3, page: 11)
    #expect(try written(log) == [11])
    withExtendedLifetime(second.features) {}
  }

  /// A page that is punched out of a file and then only read is there, and unwritten.
  @Test func aMemoryFileIsNotTracked() throws {
    #expect(try Mapped(pageCount: 16, isShared: true).log() == nil)
  }
}
