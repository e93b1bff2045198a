import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

private let tracking: UserfaultFeatures = [
  .writeProtectFaults, .writeProtectSharedMemory, .writeProtectUnpopulated,
  .asynchronousWriteProtect,
]

extension UFFDTests {
  /// The kernel's tests of PAGEMAP_SCAN, and the tracker that is built on it.
  @Suite(.enabled(if: Machine.features.isSuperset(of: tracking), "needs Linux 6.7"))
  struct PagemapTests {
    @Test(arguments: MemoryKind.allCases)
    func pagesThatWereNotThereAreFoundOnceTheyAreWritten(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(kind, pageCount: 8)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      var tracker = try memory.tracker()
      #expect(try tracker.collectPages(of: memory) == Set(0..<8))
      memory.pages(2).start.store(1)
      memory.pages(5).start.store(1)
      #expect(try tracker.collectPages(of: memory, .written) == [2, 5])
      #expect(memory.pages(2).start.load() == 1)
      memory.pages(5).start.store(2)
      memory.pages(6).start.store(2)
      #expect(try tracker.collectPages(of: memory, .written) == [5, 6])
      #expect(try tracker.collectPages(of: memory, .written) == [])
    }

    @Test(arguments: MemoryKind.allCases)
    func aSecondRoundReportsExactlyTheWrittenPages(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(kind, pageCount: 8)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<8 { memory.pages(index).start.store(1) }
      // One run for each call of the kernel: going on behind a full buffer is tested too.
      var tracker = try memory.tracker(runCapacity: 1)
      #expect(try tracker.collectPages(of: memory) == Set(0..<8))
      #expect(try tracker.collectPages(of: memory) == [])
      for index in [0, 3, 4, 7] { memory.pages(index).start.store(2) }
      #expect(try tracker.collectPages(of: memory) == [0, 3, 4, 7])
      #expect(try tracker.collectPages(of: memory) == [])
    }

    /// It finds what a round finds, holes and all, in one pass; and protects nothing, so that the
    /// next round finds the same.
    @Test(arguments: MemoryKind.allCases)
    func theLastRoundProtectsNothing(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(kind, pageCount: 8)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<6 { memory.pages(index).start.store(1) }
      for capacity in [1, PagemapRunBuffer.defaultCapacity] {
        var tracker = try memory.tracker(runCapacity: capacity)
        _ = try tracker.collectPages(of: memory)
        for index in [0, 2, 3, 7] { memory.pages(index).start.store(2) }
        #expect(try tracker.collectPages(of: memory, .written, isLast: true) == [0, 2, 3, 7])
        #expect(try tracker.collectPages(of: memory, .written, isLast: true) == [0, 2, 3, 7])
        #expect(try tracker.collectPages(of: memory, .written) == [0, 2, 3, 7])
        #expect(try tracker.collectPages(of: memory, .written, isLast: true) == [])
      }
    }

    /// More runs than the kernel and the buffer take at once, one page each.
    @Test(arguments: [MemoryKind.anonymous, .shmem, .privateShmem])
    func scatteredPagesAreAllFound(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(kind, pageCount: 16_384)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<16_384 { memory.pages(index).start.store(1) }
      let odd = Set(stride(from: 1, to: 16_384, by: 2))
      for capacity in [1, 512, 700, PagemapRunBuffer.defaultCapacity] {
        var tracker = try memory.tracker(runCapacity: capacity)
        _ = try tracker.collectPages(of: memory)
        for index in odd { memory.pages(index).start.store(2) }
        #expect(try tracker.collectPages(of: memory, isLast: true) == odd)
        #expect(try tracker.collectPages(of: memory) == odd)
      }
    }

    /// The kernel begins anew behind each 512 runs, and says at the end where it last did: the next
    /// scan, of what was scanned, protects what was written meanwhile.
    @Test(arguments: [1, 511, 512, 513, 700, 1024, 4096])
    func whatIsWrittenBetweenTwoScansIsNotLost(capacity: Int) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(.anonymous, pageCount: 2048)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<2048 { memory.pages(index).start.store(1) }
      var tracker = try memory.tracker(runCapacity: capacity)
      try tracker.collect { _, _ in }
      for index in stride(from: 1, to: 2048, by: 2) { memory.pages(index).start.store(2) }
      let base = memory.base
      var pages: Set<Int> = []
      func note(_ range: HostRange) {
        let first = Int(base.distance(to: range.start).rawValue) / 4096
        pages.formUnion(first..<first + Int(range.byteCount.rawValue) / 4096)
      }
      // Pages between those that the kernel has just told of.
      var areWritten = false
      try tracker.collect { range, _ in
        note(range)
        guard !areWritten else { return }
        areWritten = true
        for index in stride(from: 0, to: 2048, by: 2) { memory.pages(index).start.store(3) }
      }
      try tracker.collect { range, _ in note(range) }
      #expect(pages == Set(0..<2048))
    }

    /// A write by the kernel on the process's behalf counts.
    @Test(arguments: MemoryKind.allCases)
    func whatASystemCallWritesIsSeen(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(kind)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<4 { memory.pages(index).start.store(1) }
      var tracker = try memory.tracker()
      _ = try tracker.collectPages(of: memory)
      let zeros = try OwnedDescriptor.open("/dev/zero", flags: O_RDONLY)
      // unsafe: the 8 bytes are the test's own.
      #expect(unsafe read(zeros.rawValue, memory.pages(2).start.pointer, 8) == 8)
      #expect(try tracker.collectPages(of: memory) == [2])
    }

    @Test(arguments: [MemoryKind.anonymous, .privateShmem, .privateHugetlb])
    func aPrivatePageThatWasGivenBackCountsAsChanged(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(kind)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<4 { memory.pages(index).start.store(1) }
      var tracker = try memory.tracker()
      _ = try tracker.collectPages(of: memory)
      #expect(memory.pages(1).advise(MADV_DONTNEED) == 0)
      let wanted: DirtyKind = kind == .anonymous ? .written : .unpopulated
      #expect(try tracker.collectPages(of: memory, wanted) == [1])
      #expect(memory.pages(2).advise(MADV_DONTNEED) == 0)
      #expect(try tracker.collectPages(of: memory, wanted).contains(2))
    }

    /// What the page tables cannot tell: `TrackedMemory.shared` sends its reader to the file.
    @Test func aPageThatIsPunchedOutOfASharedFileIsNotReported() throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      let memory = try TestMemory(.shmem)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      for index in 0..<4 { memory.pages(index).start.store(1) }
      var tracker = try memory.tracker()
      _ = try tracker.collectPages(of: memory)
      try memory.punch(1)
      #expect(try tracker.collectPages(of: memory) == [])
      #expect(memory.pages(1).start.load() == 0)
    }

    /// Stretches without a page table: the scan alone says nothing of them (the kernel's bug).
    @Test(arguments: [MemoryKind.anonymous, .shmem, .privateShmem])
    func stretchesWithoutAPageTableAreNotForgotten(_ kind: MemoryKind) throws {
      let descriptor = try UserfaultDescriptor(requiring: tracking)
      // 8 MiB hold three aligned stretches at least.
      let memory = try TestMemory(kind, pageCount: 2048)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      let all = Set(0..<2048)
      var tracker = try memory.tracker()
      #expect(try tracker.collectPages(of: memory) == all)

      // Written into a hole, which was not protected: found all the same.
      memory.pages(700).start.store(1)
      #expect(try tracker.collectPages(of: memory).contains(700))

      // A whole stretch is given back, its page table with it.
      let start = memory.base.advanced(by: ByteCount(PageSize.huge.byteCount))
        .roundedDown(to: .huge)
      let first = Int(memory.base.distance(to: start).rawValue) / 4096
      let stretch = HostRange(start: start, byteCount: ByteCount(PageSize.huge.byteCount))
      for page in first..<first + 512 { memory.pages(page).start.store(2) }
      #expect(try tracker.collectPages(of: memory).isSuperset(of: first..<first + 512))
      #expect(stretch.advise(MADV_DONTNEED) == 0)
      let dropped = try tracker.collectPages(of: memory)
      // Of shared memory the content is still there, so nothing has to be said.
      if !kind.isShared { #expect(dropped.isSuperset(of: first..<first + 512)) }

      // A hole that stays one was not written again.
      #expect(try tracker.collectPages(of: memory, .written) == [])

      // Once more, for the last round.
      for page in first..<first + 512 { memory.pages(page).start.store(3) }
      _ = try tracker.collectPages(of: memory)
      #expect(stretch.advise(MADV_DONTNEED) == 0)
      let last = try tracker.collectPages(of: memory, isLast: true)
      if !kind.isShared { #expect(last.isSuperset(of: first..<first + 512)) }
    }

    @Test func whatIsNotTrackedIsAnError() throws {
      let memory = try TestMemory(.anonymous)
      var untracked = try memory.tracker()
      let expected = UFFDError(.scanPagemap, range: memory.range, errno: .noSuchEntry)
      let refused = UFFDError(.scanPagemap, range: memory.range, errno: .notPermitted)
      #expect(throws: refused) { try untracked.collect { _, _ in } }
      #expect(throws: expected) { try untracked.collect(isLast: true) { _, _ in } }

      let descriptor = try UserfaultDescriptor(requiring: tracking)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      var tracker = try memory.tracker()
      try tracker.collect { _, _ in }
      // A part that goes away is not passed over.
      #expect(memory.unmap(memory.pages(2)) == 0)
      #expect(throws: expected) { try tracker.collect { _, _ in } }
      #expect(throws: expected) { try tracker.collect(isLast: true) { _, _ in } }
    }

    /// Without WP_ASYNC a scan that protects is refused.
    @Test func protectingNeedsAnAsynchronousDescriptor() throws {
      let features = tracking.subtracting(.asynchronousWriteProtect)
      let descriptor = try UserfaultDescriptor(requiring: features)
      let memory = try TestMemory(.anonymous)
      _ = try descriptor.handle.register(memory.range, modes: .writeProtect)
      let scanner = try PagemapScanner(processID: getpid())
      var runs = PagemapRunBuffer(capacity: 4)
      do {
        _ = try scanner.scan(
          memory.range, for: PagemapQuestion(required: .isWritten), protecting: true, into: &runs)
        Issue.record("the scan was not refused")
      } catch {
        #expect(error == UFFDError(.scanPagemap, range: memory.range, errno: .notPermitted))
      }
    }

    @Test func aScanTellsThePagesThatAreThere() throws {
      let memory = try TestMemory(.anonymous)
      memory.pages(1).start.store(1)
      #expect(memory.pages(3).start.load() == 0)
      let scanner = try PagemapScanner(processID: getpid())
      var runs = PagemapRunBuffer(capacity: 4)
      let question = PagemapQuestion(
        required: .isPresent, reported: [.isPresent, .isZeroPage, .isFile])
      let reached = try scanner.scan(memory.range, for: question, into: &runs)
      #expect(reached == memory.range.end)
      try #require(runs.count == 2)
      #expect(runs[0] == PagemapRun(range: memory.pages(1), categories: .isPresent))
      #expect(
        runs[1] == PagemapRun(range: memory.pages(3), categories: [.isPresent, .isZeroPage]))
    }

    @Test func aProcessThatIsNotThereHasNoPagemap() throws {
      // Above the highest process id that Linux gives.
      let nobody = Int32(1 << 22) + 1
      #expect(throws: UFFDError(.openPagemap(processID: nobody), errno: .noSuchEntry)) {
        _ = try PagemapScanner(processID: nobody)
      }
    }
  }
}

extension MemoryKind {
  var tracked: TrackedMemory {
    switch self {
    case .anonymous: .privateAnonymous
    case .privateShmem, .privateHugetlb: .privateFile
    case .shmem, .hugetlb: .shared
    }
  }
}

extension TestMemory {
  borrowing func tracker(
    runCapacity: Int = PagemapRunBuffer.defaultCapacity
  ) throws -> DirtyTracker {
    DirtyTracker(
      scanner: try PagemapScanner(processID: getpid()), ranges: [range], memory: kind.tracked,
      runCapacity: runCapacity)
  }
}

extension DirtyTracker {
  /// One round: the pages of the memory that it reports, of one kind or of both.
  mutating func collectPages(
    of memory: borrowing TestMemory, _ wanted: DirtyKind? = nil, isLast: Bool = false
  ) throws -> Set<Int> {
    let base = memory.base
    let size = memory.kind.pageSize.byteCount
    var pages: Set<Int> = []
    try collect(isLast: isLast) { range, kind in
      guard wanted == nil || wanted == kind else { return }
      let first = Int(base.distance(to: range.start).rawValue) / size
      let end = (Int(base.distance(to: range.end).rawValue) + size - 1) / size
      pages.formUnion(first..<end)
    }
    return pages
  }
}
