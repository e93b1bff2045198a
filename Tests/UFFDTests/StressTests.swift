import CLinux
import CUFFDTestSupport
import Glibc
import Pages
import System
import Testing

@testable import UFFD

private let protection: UserfaultFeatures = [.writeProtectFaults, .writeProtectSharedMemory]

extension UFFDTests {
  /// The kernel's stress test: a thread for each processor changes counters inside random pages, a
  /// reader answers their faults, and a copier fills the range behind their back. After each bounce
  /// the counters are compared, and what is there is the next bounce's source.
  @Suite struct StressTests {
    /// Bounded by operations, never by time; odd bounces run under write-protection.
    private static let bounceCount = 4
    private static let operationsPerThread: UInt64 = 20_000

    @Test(arguments: MemoryKind.allCases)
    func countersStayRight(_ kind: MemoryKind) throws {
      let threadCount = max(2, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
      let memory = try TestMemory(kind, pageCount: kind.isHugetlb ? 8 : 512)
      let board = try StressBoard(memory.range, pageSize: kind.pageSize)
      for bounce in 0..<Self.bounceCount {
        let isProtected = bounce % 2 == 1 && Machine.features.isSuperset(of: protection)
        let descriptor = try UserfaultDescriptor(requiring: isProtected ? protection : [])
        let modes: RegistrationModes = isProtected ? [.missing, .writeProtect] : .missing
        _ = try descriptor.handle.register(memory.range, modes: modes)
        let stop = try OwnedDescriptor.event()
        let uffd = descriptor.handle
        let stopNumber = stop.rawValue
        let reader = try WorkerThread(name: "reader") {
          board.answerFaults(of: uffd, until: stopNumber, isProtected: isProtected)
        }
        let copier = try WorkerThread(name: "copier") {
          board.copyAll(by: uffd, isProtected: isProtected)
        }
        let mismatches = Lock<UInt64>(0)
        try withThreads(threadCount) { index in
          // The seed is part of the test: a failure repeats with it as far as threads allow.
          let seed = UInt64(bounce * threadCount + index) &* 0x9E37_79B9_7F4A_7C15
          let count = board.mutate(seed: seed, operationCount: Self.operationsPerThread)
          mismatches.withLock { $0 += count }
        }
        copier.join()
        eventfd_write(stopNumber, 1)
        reader.join()
        #expect(board.failure == nil, "bounce \(bounce)")
        #expect(mismatches.withLock { $0 } == 0, "bounce \(bounce)")
        #expect(try descriptor.status().waitingFaultCount == 0)
        try descriptor.handle.unregister(memory.range)
        #expect(board.takeOverCountersAndCountWrongPages() == 0, "bounce \(bounce)")
        try memory.dropAll()
      }
      let total = UInt64(Self.bounceCount * threadCount) * Self.operationsPerThread
      #expect(board.total == total)
    }
  }
}

/// Runs `body` on so many threads and waits for all of them.
private func withThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) throws {
  guard count > 0 else { return }
  let thread = try WorkerThread(name: "mutator") { body(count - 1) }
  let others = Result { try withThreads(count - 1, body) }
  thread.join()
  try others.get()
}

extension TestMemory {
  /// Makes every page missing again.
  borrowing func dropAll() throws {
    // Shared pages live in the file.
    let advice = kind.isShared ? MADV_REMOVE : MADV_DONTNEED
    try #require(range.advise(advice) == 0, "all pages can be dropped")
  }
}

/// The pages' source, and what their counters must be. Each page holds a counter in its first word,
/// and its own number in all the others.
@safe
private final class StressBoard: @unchecked Sendable {
  private let range: HostRange
  private let pageSize: PageSize
  private let pageCount: Int
  private let source: MemoryMapping
  private let locks: UnsafeMutablePointer<UInt32>
  private let expected: UnsafeMutablePointer<UInt64>
  private let firstFailure = Lock<UFFDError?>(nil)

  init(_ range: HostRange, pageSize: PageSize) throws {
    self.range = range
    self.pageSize = pageSize
    self.pageCount = Int(range.byteCount.rawValue) / pageSize.byteCount
    self.source = try MemoryMapping(anonymousByteCount: Int(range.byteCount.rawValue))
    unsafe self.locks = .allocate(capacity: pageCount)
    unsafe self.expected = .allocate(capacity: pageCount)
    unsafe locks.initialize(repeating: 0, count: pageCount)
    unsafe expected.initialize(repeating: 0, count: pageCount)
    for page in 0..<pageCount {
      for offset in stride(from: 8, to: pageSize.byteCount, by: 8) {
        unsafe sourcePage(page).storeBytes(of: UInt64(page), toByteOffset: offset, as: UInt64.self)
      }
    }
  }

  // unsafe: both were allocated in init, and the last reference is gone.
  deinit {
    unsafe locks.deallocate()
    unsafe expected.deallocate()
  }

  var failure: UFFDError? { firstFailure.withLock { $0 } }
  var total: UInt64 { (0..<pageCount).reduce(0) { unsafe $0 + expected[$1] } }

  func mutate(seed: UInt64, operationCount: UInt64) -> UInt64 {
    // unsafe: both arrays have a word for each page, and C locks each page before its counter.
    unsafe uffdtest_mutate(
      range.start.rawValue, UInt64(pageSize.byteCount), UInt64(pageCount), 0, seed, operationCount,
      locks, expected)
  }

  func answerFaults(of uffd: UserfaultHandle, until stop: Int32, isProtected: Bool) {
    var buffer = UserfaultMessageBuffer()
    while true {
      var entries = [
        pollfd(fd: uffd.rawValue, events: Int16(POLLIN), revents: 0),
        pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
      ]
      // unsafe: two entries are given, and their count is two.
      let count = unsafe poll(&entries, 2, waitLimitMilliseconds)
      if count == 0 || entries[1].revents != 0 { return }
      do throws(UFFDError) {
        _ = try uffd.read(into: &buffer)
        for position in 0..<buffer.count {
          guard case .fault(let fault) = buffer[position] else { continue }
          let page = HostRange(pageOf: pageSize, holding: fault.address)
          if fault.flags.contains(.writeProtected) {
            _ = try uffd.writeProtect(page, isProtected: false)
          } else {
            try install(page, by: uffd, isProtected: isProtected)
          }
        }
      } catch {
        firstFailure.withLock { $0 = $0 ?? error }
      }
    }
  }

  func copyAll(by uffd: UserfaultHandle, isProtected: Bool) {
    do throws(UFFDError) {
      for page in 0..<pageCount {
        try install(addressRange(page), by: uffd, isProtected: isProtected)
      }
    } catch {
      firstFailure.withLock { $0 = $0 ?? error }
    }
  }

  /// Brings the source up to date, which is what the next bounce starts from, and answers how many
  /// pages of the target differ from it.
  func takeOverCountersAndCountWrongPages() -> Int {
    (0..<pageCount).count { page in
      // unsafe: both pages are whole and mapped, and no thread uses them any more.
      unsafe sourcePage(page).storeBytes(of: expected[page], as: UInt64.self)
      return unsafe memcmp(
        sourcePage(page), addressRange(page).start.pointer, pageSize.byteCount) != 0
    }
  }

  private func install(
    _ page: HostRange, by uffd: UserfaultHandle, isProtected: Bool
  ) throws(UFFDError) {
    let index = Int(range.start.distance(to: page.start).rawValue) / pageSize.byteCount
    // unsafe: the source is mapped as long as the board lives, and unchanged during a bounce.
    let outcome = try unsafe uffd.copy(
      UnsafeRawBufferPointer(start: sourcePage(index), count: pageSize.byteCount), to: page.start,
      writeProtected: isProtected)
    switch outcome {
    case .complete: return
    case .exists: try uffd.wake(page)
    case .partial, .retry, .gone, .noMapping, .outOfMemory:
      throw UFFDError(.copy, range: page, errno: .inputOutput)
    }
  }

  private func addressRange(_ page: Int) -> HostRange {
    HostRange(
      start: range.start.advanced(by: ByteCount(page * pageSize.byteCount)),
      byteCount: ByteCount(pageSize.byteCount))
  }

  private func sourcePage(_ page: Int) -> UnsafeMutableRawPointer {
    unsafe source.base + page * pageSize.byteCount
  }
}
