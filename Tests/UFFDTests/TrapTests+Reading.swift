import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests.TrapTests {
  @Test func trap8PollNeedsANonBlockingDescriptor() throws {
    let number = uffdtest_blocking_userfaultfd()
    try #require(number >= 0)
    let blocking = OwnedDescriptor(adopting: number)
    #expect(pollOnce(UserfaultHandle(borrowing: number)) & POLLERR != 0)
    let adopted = try UserfaultDescriptor(adopting: blocking)
    #expect(pollOnce(adopted.handle, limitMilliseconds: 0) == 0)
  }

  @Test(arguments: MemoryKind.allCases)
  func trap8ReadableCanMeanNothingToRead(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: [])
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let thread = try FaultingThread(loading: memory.base)
    try #require(pollOnce(uffd) == POLLIN)
    // Another installer was faster than the reader.
    #expect(try uffd.copy(memory.content(1), to: memory.base) == .complete)
    var buffer = UserfaultMessageBuffer()
    #expect(try uffd.read(into: &buffer) == 0)
    #expect(buffer.count == 0)
    #expect(try thread.value() == word(1))
  }

  @Test(arguments: MemoryKind.allCases)
  func trap8OneReadBringsAllMessagesThatFit(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: .threadIDs)
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let first = try FaultingThread(loading: memory.pages(0).start)
    let second = try FaultingThread(loading: memory.pages(1).start)
    let third = try FaultingThread(loading: memory.pages(2).start)
    try waitUntil("three faults are queued") { try descriptor.status().unreadFaultCount == 3 }
    var small = EventReader(uffd, capacity: 2)
    var faults = try small.readBatch()
    #expect(faults.count == 2)
    faults += try small.readBatch()
    var pages: Set<HostAddress> = []
    var threads: Set<UInt32> = []
    for case .fault(let fault) in faults {
      pages.insert(fault.address)
      threads.insert(fault.threadID)
    }
    #expect(pages == Set((0..<3).map { memory.pages($0).start }))
    #expect(threads.count == 3)
    #expect(try uffd.copy(memory.content(4, pageCount: 3), to: memory.base) == .complete)
    #expect(try [first.value(), second.value(), third.value()] == [word(4), word(4), word(4)])
  }

  @Test func trap10AStoreBeforeRegistrationMakesItsNeighboursPresentZeros() throws {
    // Room for one aligned huge page wherever the mapping begins.
    let memory = try TestMemory(.anonymous, pageCount: 1024)
    let descriptor = try UserfaultDescriptor(requiring: [])
    let uffd = descriptor.handle
    #expect(memory.range.advise(MADV_HUGEPAGE) == 0)
    let size = ByteCount(PageSize.huge.byteCount)
    let huge = HostRange(
      start: memory.base.advanced(by: size).roundedDown(to: .huge), byteCount: size)
    huge.start.store(1)
    guard try huge.isHuge() else { try Test.cancel("no transparent huge page was to be had") }
    _ = try uffd.register(memory.range, modes: .missing)
    // Never touched, never a fault, and yet there.
    let neighbour = huge.start.advanced(by: ByteCount(4096 * 77))
    #expect(try uffd.copy(memory.content(9), to: neighbour) == .exists)
    #expect(neighbour.load() == 0)
  }

  @Test func trap10CopyInstallsSmallPagesWhichCanBeCollapsedLater() throws {
    let memory = try TestMemory(.anonymous, pageCount: 1024)
    let descriptor = try UserfaultDescriptor(requiring: [])
    let uffd = descriptor.handle
    #expect(memory.range.advise(MADV_HUGEPAGE) == 0)
    _ = try uffd.register(memory.range, modes: .missing)
    let size = ByteCount(PageSize.huge.byteCount)
    let huge = HostRange(
      start: memory.base.advanced(by: size).roundedDown(to: .huge), byteCount: size)
    #expect(try uffd.copy(memory.content(5, pageCount: 512), to: huge.start) == .complete)
    #expect(try !huge.isHuge())
    try uffd.unregister(memory.range)
    #expect(huge.advise(Int32(UFFDTEST_MADV_COLLAPSE)) == 0)
    #expect(try huge.isHuge())
    #expect(huge.start.advanced(by: ByteCount(4096 * 511)).load() == word(5))
  }

  @Test(arguments: MemoryKind.shared)
  func trap11AnotherMappingOfTheFileReadsHolesAsZeros(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: [])
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    #expect(try uffd.copy(memory.content(6), to: memory.base) == .complete)
    let file = memory.file
    let number = try #require(file?.number)
    let byteCount = UInt64(memory.byteCount)
    let present = uffdtest_fork_reading_file(number, byteCount, 0)
    #expect(uffdtest_wait(present) == 6)
    let offset = memory.pages(1).start.rawValue - memory.base.rawValue
    let missing = uffdtest_fork_reading_file(number, byteCount, offset)
    #expect(uffdtest_wait(missing) == 0)
    var events = EventReader(uffd)
    #expect(try events.isEmpty())
  }

  @Test(arguments: MemoryKind.allCases)
  func trap12NeighboursComeQuietlyAndOneWakeServesThemAll(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: [])
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let demanded = try FaultingThread(loading: memory.pages(0).start)
    let second = try FaultingThread(loading: memory.pages(1).start)
    let third = try FaultingThread(loading: memory.pages(2).start)
    try waitUntil("three threads wait") { try descriptor.status().waitingFaultCount == 3 }
    var events = EventReader(uffd)
    #expect(try events.readBatch().count == 3)
    // The demanded page goes first, with its wake.
    #expect(try uffd.copy(memory.content(1), to: memory.base) == .complete)
    #expect(try demanded.value() == word(1))
    let neighbours = memory.pages(1, count: 3)
    let content = memory.content(2, pageCount: 3)
    #expect(try uffd.copy(content, to: neighbours.start, waking: false) == .complete)
    #expect(try descriptor.status().waitingFaultCount == 2)
    try uffd.wake(neighbours)
    #expect(try second.value() == word(2))
    #expect(try third.value() == word(2))
  }

  @Test(arguments: MemoryKind.allCases)
  func trap13TheKernelsBooksCountUnreadAndWaitingFaults(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: [])
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let idle = try descriptor.status()
    #expect(idle.unreadFaultCount == 0 && idle.waitingFaultCount == 0)
    let thread = try FaultingThread(loading: memory.base)
    try waitUntil("the fault is queued") { try descriptor.status().unreadFaultCount == 1 }
    #expect(try descriptor.status().waitingFaultCount == 1)
    var events = EventReader(uffd)
    _ = try events.nextFault()
    let read = try descriptor.status()
    #expect(read.unreadFaultCount == 0 && read.waitingFaultCount == 1)
    #expect(try uffd.copy(memory.content(1), to: memory.base) == .complete)
    #expect(try thread.value() == word(1))
    #expect(try descriptor.status().waitingFaultCount == 0)
  }
}

extension HostRange {
  /// Whether one huge page covers it.
  fileprivate func isHuge() throws -> Bool {
    let scanner = try PagemapScanner(processID: getpid())
    var runs = PagemapRunBuffer(capacity: 2)
    _ = try scanner.scan(self, for: PagemapQuestion(required: .isHuge), into: &runs)
    return runs.count == 1 && runs[0].range == self
  }
}
