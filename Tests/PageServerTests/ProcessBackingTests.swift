import CLinux
import CUFFDTestSupport
import Foundation
import Pages
import System
import Testing

@testable import PageServer

/// Anonymous memory of this very process, mapped for one test.
@safe
final class OwnMemory {
  let base: UnsafeMutableRawPointer
  let byteCount: Int

  init(pageCount: Int, flags: Int32 = MAP_PRIVATE | MAP_ANONYMOUS) throws {
    byteCount = pageCount * 4096
    let wish = unsafe UnsafeMutableRawPointer(
      bitPattern: UInt(uffdtest_remote_address(UInt64(byteCount))))
    let base = unsafe mmap(wish, byteCount, PROT_READ | PROT_WRITE, flags, -1, 0)
    guard let base = unsafe base, unsafe base != MAP_FAILED else { throw SystemError("mmap") }
    unsafe self.base = base
    // Huge pages would make 511 neighbours of a touched page present.
    unsafe madvise(base, byteCount, MADV_NOHUGEPAGE)
  }

  /// What a test has taken out: it may be somebody else's memory by now, also another test's.
  private var hole = 0..<0

  deinit {
    unsafe munmap(base, hole.isEmpty ? byteCount : hole.lowerBound)
    if !hole.isEmpty { unsafe munmap(base + hole.upperBound, byteCount - hole.upperBound) }
  }

  /// Takes the third of four pages out.
  func unmapThirdPage() {
    hole = 8192..<12_288
    unsafe munmap(base + hole.lowerBound, hole.count)
  }

  var range: Range<UInt64> {
    let start = unsafe UInt64(UInt(bitPattern: base))
    return start..<start + UInt64(byteCount)
  }

  func fill(_ pages: some Sequence<Int>) {
    for page in pages {
      unsafe memcpy(base + page * 4096, TestMemory.content(page), 4096)
    }
  }

  var source: MemorySource { .process(pid: getpid(), ranges: [range]) }
}

/// A process that waits for the end of its input, and ends with it.
final class IdleProcess {
  let process = Process()
  private let input = Pipe()

  init() throws {
    process.executableURL = URL(fileURLWithPath: "/bin/cat")
    process.standardInput = input
    process.standardOutput = FileHandle.nullDevice
    try process.run()
  }

  deinit { end() }

  func end() {
    try? input.fileHandleForWriting.close()
    process.waitUntilExit()
  }

  /// Its stack: memory that every process has.
  func source() throws -> MemorySource {
    let pid = process.processIdentifier
    let stack = try ProcessMapping.all(ofPID: pid).first { $0.name == "[stack]" }
    return .process(pid: pid, ranges: [try #require(stack).addresses])
  }
}

@Suite struct ProcessBackingTests {
  @Test func readsAndFindsAbsentPages() throws {
    let memory = try OwnMemory(pageCount: 40)
    memory.fill([0, 1, 20, 39])
    let backing = try memory.source.open()
    try backing.markFrozen()
    #expect(backing.naturalLayout.totalPageCount == PageCount(40))
    #expect(try backing.absentPages() == [2..<20, 21..<39])
    #expect(try backing.read(page: 20) == TestMemory.content(20))
    #expect(
      try backing.read(page: 0, count: 4)
        == TestMemory.content(0) + TestMemory.content(1) + [UInt8](repeating: 0, count: 8192))
  }

  @Test func severalRangesMakeOneImage() throws {
    let first = try OwnMemory(pageCount: 4)
    let second = try OwnMemory(pageCount: 4)
    first.fill(0..<4)
    second.fill(0..<4)
    let backing = try MemorySource.process(pid: getpid(), ranges: [second.range, first.range])
      .open()
    #expect(backing.naturalLayout.regions.map(\.imageOffset) == [.zero, ByteCount(16384)])
    second.fill([0])
    #expect(try backing.read(page: 3) == TestMemory.content(3))
    #expect(try backing.read(page: 5) == TestMemory.content(1))
    guard case .process(let process, let ranges) = backing.identity else {
      return #expect(Bool(false))
    }
    #expect(process == (try ProcessIdentity.current()))
    #expect(ranges == [second.range, first.range])
  }

  @Test func sharedMemoryIsNeverTakenForAbsent() throws {
    let memory = try OwnMemory(pageCount: 8, flags: MAP_SHARED | MAP_ANONYMOUS)
    memory.fill([3])
    let backing = try memory.source.open()
    #expect(try backing.absentPages() == [])
    #expect(try backing.read(page: 3) == TestMemory.content(3))
  }

  @Test func aLongImageIsSearchedInSteps() throws {
    // More than one step of the page map, its border inside an absent stretch.
    let pageCount = ProcessMemory.pageMapChunkPageCount + 100
    let memory = try OwnMemory(pageCount: pageCount)
    memory.fill([0, pageCount - 1])
    let backing = try memory.source.open()
    let absent = try backing.absentPages()
    #expect(absent.reduce(0) { $0 + $1.count } == pageCount - 2)
    #expect(absent.first?.lowerBound == 1)
    #expect(absent.last?.upperBound == pageCount - 1)
  }

  @Test func whatIsNotMappedIsRefused() throws {
    let memory = try OwnMemory(pageCount: 4)
    let start = memory.range.lowerBound
    memory.unmapThirdPage()
    #expect(
      throws: MemorySourceError.notMapped(
        pid: getpid(), range: MemorySource.hexadecimal(memory.range), at: start + 8192)
    ) { try memory.source.open() }
  }

  @Test func aRangeThatIsUnmappedLaterIsMemoryLost() throws {
    let memory = try OwnMemory(pageCount: 4)
    memory.fill(0..<4)
    let backing = try memory.source.open()
    memory.unmapThirdPage()
    #expect(
      throws: MemoryError.rangeGone(
        name: memory.source.description, range: MemorySource.hexadecimal(memory.range))
    ) { try backing.markFrozen() }
    #expect(
      throws: MemoryError.unreadable(
        name: memory.source.description, offset: 8192, .inputOutput)
    ) { try backing.read(page: 2) }
    // A run gives up at its first page that cannot be read, and says which.
    #expect(
      throws: MemoryError.unreadable(
        name: memory.source.description, offset: 8192, .inputOutput)
    ) { try backing.read(page: 0, count: 4) }
  }

  @Test func aProcessThatEndsIsMemoryLost() throws {
    let process = try IdleProcess()
    let backing = try process.source().open()
    try backing.markFrozen()
    _ = try backing.read(page: 0)
    process.end()
    let gone = MemoryError.processGone(name: backing.source.description)
    #expect(throws: gone) { try backing.read(page: 0) }
    #expect(throws: gone) { try backing.searchAbsent(in: 0..<4096) { _ in } }
    #expect(throws: gone) { try backing.markFrozen() }
  }

  @Test func aProcessThatIsNotThereIsRefused() throws {
    let process = try IdleProcess()
    let pid = process.process.processIdentifier
    process.end()
    #expect(throws: MemorySourceError.noSuchProcess(pid: pid)) {
      try MemorySource.process(pid: pid, ranges: [0x1000..<0x2000]).open()
    }
  }

  @Test func withoutRangesThereMustBeOneCandidate() throws {
    let process = try IdleProcess()
    let pid = process.process.processIdentifier
    #expect(throws: MemorySourceError.noCandidate(pid: pid)) {
      try MemorySource.process(pid: pid, ranges: []).open()
    }
    let text = """
      10000000-12000000 rw-p 00000000 00:00 0
      12000000-12001000 rw-p 00000000 00:00 0
      20000000-21000000 rw-s 00000000 00:01 77 /memfd:guest (deleted)
      30000000-34000000 rwxp 00000000 00:00 0
      40000000-44000000 r--p 00000000 00:00 0
      50000000-54000000 rw-p 00000000 08:01 5 /a/file
      60000000-60800000 rw-p 00000000 00:00 0 [heap]
      """
    let mappings = ProcessMapping.parse(text)
    #expect(mappings.count == 7)
    #expect(
      throws: MemorySourceError.manyCandidates(
        pid: 1, ranges: ["10000000-12001000", "20000000-21000000"])
    ) { try ProcessBacking.candidate(in: mappings, pid: 1) }
    #expect(
      try ProcessBacking.candidate(in: Array(mappings.dropFirst(2)), pid: 1)
        == [0x2000_0000..<0x2100_0000])
  }

  @Test func memoryThatAUserfaultfdStillFillsIsRefused() throws {
    let text = """
      10000000-12000000 rw-p 00000000 00:00 0
      Size:              32768 kB
      KernelPageSize:        4 kB
      VmFlags: rd wr mr mw me ac um
      20000000-20400000 rw-s 00000000 00:01 77 /anon_hugepage (deleted)
      KernelPageSize:     2048 kB
      VmFlags: rd wr sh mr mw me ms ht
      """
    let mappings = ProcessMapping.parse(text)
    #expect(mappings.map(\.isUserfaultMissing) == [true, false])
    #expect(mappings.map(\.pageByteCount) == [4096, 2 << 20])
    #expect(
      throws: MemorySourceError.incomplete(pid: 1, range: "10000000-10001000")
    ) {
      try ProcessBacking.layout(
        of: [0x1000_0000..<0x1000_1000], in: mappings, pid: 1, .process(pid: 1, ranges: []))
    }
    let layout = try ProcessBacking.layout(
      of: [0x2000_0000..<0x2040_0000], in: mappings, pid: 1, .process(pid: 1, ranges: []))
    #expect(layout.regions[0].pageSize == .huge)
  }
}
