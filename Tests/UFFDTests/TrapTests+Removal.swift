import CLinux
import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

extension UFFDTests.TrapTests {
  @Test(arguments: [MemoryKind.anonymous, .privateShmem, .privateHugetlb])
  func trap6ARemovedPrivatePageFaultsAgainAndIsTheHandlersToZero(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: .removeEvents)
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let page = memory.pages(1)
    #expect(try uffd.copy(memory.content(7), to: page.start) == .complete)
    let remove = try FaultingThread { UInt64(page.advise(MADV_DONTNEED)) }
    var events = EventReader(uffd)
    #expect(try events.next() == .remove(page))
    #expect(try remove.value() == 0)
    // The kernel does not answer by itself, and would take old content as well.
    let thread = try FaultingThread(loading: page.start)
    #expect(try events.nextFault().address == page.start)
    #expect(try uffd.fillWithZeros(page, memory.kind) == .complete)
    #expect(try thread.value() == 0)
  }

  @Test(arguments: MemoryKind.shared)
  func trap6ARemovalOfSharedPagesKeepsTheirContent(_ kind: MemoryKind) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: .removeEvents)
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    #expect(try uffd.copy(memory.content(7), to: memory.base) == .complete)
    let both = memory.pages(0, count: 2)
    let remove = try FaultingThread { UInt64(both.advise(MADV_DONTNEED)) }
    var events = EventReader(uffd)
    #expect(try events.next() == .remove(both))
    #expect(try remove.value() == 0)
    // The one that was installed is there, without a fault; the other one is the source's still.
    #expect(memory.base.load() == word(7))
    #expect(try events.isEmpty())
    let thread = try FaultingThread(loading: memory.pages(1).start)
    #expect(try events.nextFault().address == memory.pages(1).start)
    #expect(try uffd.copy(memory.content(8), to: memory.pages(1).start) == .complete)
    #expect(try thread.value() == word(8))
  }

  @Test(arguments: MemoryKind.shared)
  func trap6APunchedPageFaultsWithoutAnEventAndWakingItGoesInCircles(
    _ kind: MemoryKind
  ) throws {
    let memory = try TestMemory(kind)
    let descriptor = try UserfaultDescriptor(requiring: .removeEvents)
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let page = memory.pages(1)
    #expect(try uffd.copy(memory.content(7), to: page.start) == .complete)
    try memory.punch(1)
    var events = EventReader(uffd)
    #expect(try events.isEmpty())
    let thread = try FaultingThread(loading: page.start)
    for _ in 0..<3 {
      #expect(try events.nextFault().address == page.start)
      // Our books say that it is there, so we only wake: the thread comes straight back.
      try uffd.wake(page)
    }
    #expect(try events.nextFault().address == page.start)
    #expect(try uffd.fillWithZeros(page, kind) == .complete)
    #expect(try thread.value() == 0)
    #expect(try uffd.fillWithZeros(page, kind) == .exists)
  }

  /// A page that is given back while an installer brings its old content must read as zeros ever
  /// after: reading a removal with marking its pages, and looking at a mark with filling the page,
  /// exclude each other. Each page is removed once, with an installer on its heels. Without the
  /// lock around look and fill, two of three rounds failed on two processors.
  @Test(arguments: 1...4)
  func trap6NoRemovedPageIsResurrectedByALateFill(round: Int) throws {
    let memory = try TestMemory(.anonymous, pageCount: 4096)
    let descriptor = try UserfaultDescriptor(requiring: .removeEvents)
    let uffd = descriptor.handle
    _ = try uffd.register(memory.range, modes: .missing)
    let ledger = RemovalLedger(uffd, memory.range, content: memory.content(7))
    // Some pages are there when they are removed, however fast the guest is.
    for page in stride(from: 0, to: memory.pageCount, by: 64) { ledger.fill(page) }
    let progress = SharedCounter()
    let stop = try OwnedDescriptor.event()
    let stopNumber = stop.rawValue

    let handler = try WorkerThread(name: "handler") { ledger.handleMessages(until: stopNumber) }
    let filler = try WorkerThread(name: "filler") { ledger.fillAhead(of: progress) }
    let base = memory.base.rawValue
    let pageCount = UInt64(memory.pageCount)
    let guest = try FaultingThread {
      // unsafe: the counter outlives the thread, which is joined below.
      unsafe uffdtest_remove_and_load(base, 4096, pageCount, progress.word)
    }
    #expect(try guest.value() == 0)
    filler.join()
    eventfd_write(stopNumber, 1)
    handler.join()
    let result = ledger.result
    #expect(result.failure == nil)
    #expect(result.removedCount == memory.pageCount)
    #expect(result.filledCount >= memory.pageCount / 64)
  }
}

extension UserfaultHandle {
  /// Zeros in whatever way the memory takes them.
  fileprivate func fillWithZeros(
    _ page: HostRange, _ kind: MemoryKind
  ) throws(UFFDError) -> RangeOutcome {
    if !kind.isHugetlb { return try zero(page) }
    return try copy([UInt8](repeating: 0, count: kind.pageSize.byteCount), to: page.start)
  }
}

/// A word that C counts in.
@safe
final class SharedCounter: @unchecked Sendable {
  let word: UnsafeMutablePointer<UInt64>

  init() {
    unsafe word = .allocate(capacity: 1)
    unsafe word.initialize(to: 0)
  }

  // unsafe: allocated in init, and the last reference is gone.
  deinit { unsafe word.deallocate() }

  var value: Int { unsafe Int(uffdtest_progress(word)) }
}

/// The smallest handler that is right: which pages are missing, present or removed, under one lock
/// that each read with its marks and each look with its fill holds.
private final class RemovalLedger: Sendable {
  enum PageState { case missing, present, removed }

  struct Books {
    var states: [PageState]
    var parked: [HostAddress] = []
    var removedCount = 0
    var filledCount = 0
    var failure: UFFDError?
  }

  private let uffd: UserfaultHandle
  private let range: HostRange
  private let content: [UInt8]
  private let books: Lock<Books>

  init(_ uffd: UserfaultHandle, _ range: HostRange, content: [UInt8]) {
    self.uffd = uffd
    self.range = range
    self.content = content
    self.books = Lock(
      Books(states: Array(repeating: .missing, count: Int(range.byteCount.rawValue) / 4096)))
  }

  var result: Books { books.withLock { $0 } }

  /// Reads messages and answers faults, until the event descriptor `stop` says so.
  func handleMessages(until stop: Int32) {
    var buffer = UserfaultMessageBuffer()
    while true {
      var entries = [
        pollfd(fd: uffd.rawValue, events: Int16(POLLIN), revents: 0),
        pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
      ]
      // A parked fault is tried again soon: the remover is not past its event yet.
      let limit: Int32 = books.withLock { $0.parked.isEmpty } ? waitLimitMilliseconds : 1
      // unsafe: two entries are given, and their count is two.
      let count = unsafe poll(&entries, 2, limit)
      if entries[1].revents != 0 || (count == 0 && limit > 1) { return }
      books.withLock { books in
        do throws(UFFDError) {
          _ = try uffd.read(into: &buffer)
          for position in 0..<buffer.count { note(buffer[position], &books) }
          try answerParked(&books)
        } catch {
          books.failure = error
        }
      }
    }
  }

  /// Brings old content to the very page that is being removed, again and again, and now and then
  /// to the next one, so that removals of present pages occur too.
  func fillAhead(of progress: SharedCounter) {
    let pageCount = Int(range.byteCount.rawValue) / 4096
    while progress.value < pageCount {
      let removed = progress.value
      for page in removed..<min(removed.isMultiple(of: 4) ? removed + 2 : removed + 1, pageCount) {
        fill(page)
      }
      sched_yield()
    }
  }

  /// Brings old content to a page that is missing. A retry drops the lock, so that the handler can
  /// read.
  func fill(_ page: Int) {
    books.withLock { books in
      guard books.states[page] == .missing else { return }
      do throws(UFFDError) {
        guard try uffd.copy(content, to: address(page)) == .complete else { return }
        books.states[page] = .present
        books.filledCount += 1
      } catch {
        books.failure = error
      }
    }
  }

  private func note(_ event: UserfaultEvent, _ books: inout Books) {
    switch event {
    case .fault(let fault): books.parked.append(fault.address)
    case .remove(let removed):
      let first = index(removed.start)
      for page in first..<first + Int(removed.byteCount.rawValue) / 4096 {
        books.states[page] = .removed
        books.removedCount += 1
      }
    case .fork, .remap, .unmap, .unknown: break
    }
  }

  private func answerParked(_ books: inout Books) throws(UFFDError) {
    var stillParked: [HostAddress] = []
    for fault in books.parked {
      let page = HostRange(pageOf: .small, holding: fault)
      let isRemoved = books.states[index(fault)] == .removed
      let outcome = isRemoved ? try uffd.zero(page) : try uffd.copy(content, to: page.start)
      switch outcome {
      case .complete: if !isRemoved { books.states[index(fault)] = .present }
      case .exists: try uffd.wake(page)
      case .retry: stillParked.append(fault)
      case .partial, .gone, .noMapping, .outOfMemory:
        throw UFFDError(.copy, range: page, errno: .invalidArgument)
      }
    }
    books.parked = stillParked
  }

  private func index(_ address: HostAddress) -> Int {
    Int(range.start.distance(to: address).rawValue) / 4096
  }

  private func address(_ page: Int) -> HostAddress {
    range.start.advanced(by: ByteCount(page * 4096))
  }
}
