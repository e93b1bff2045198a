import Foundation
import Glibc
import Pages
import System
import Testing
import UFFD
import VMM

@testable import PageServer

/// A file whose blocks are all different, on a file system with direct I/O.
private final class TestDisk: Sendable {
  let path = "/var/tmp/postcopy-test-\(getpid())-\(UUID().uuidString).disk"

  static let isPossible: Bool =
    (try? TestDisk(blockCount: 1)).map {
      (try? OwnedDescriptor.open($0.path, flags: O_RDONLY | O_DIRECT)) != nil
        && (try? FileSystem.isOnTmpfs($0.path)) == false
    } ?? false

  init(blockCount: Int) throws {
    let file = try OwnedDescriptor.open(path, flags: O_WRONLY | O_CREAT | O_EXCL, mode: 0o600)
    let bytes = (0..<blockCount).flatMap { [UInt8](repeating: UInt8($0 % 251 + 1), count: 4096) }
    try file.writeAll(bytes, atOffset: 0, operand: path)
    try #require(fsync(file.rawValue) == 0)
  }

  deinit { _ = unsafe unlink(path) }
}

/// What this process writes to memory of its own, as PAGEMAP_SCAN tells it.
@Suite(.enabled(if: hasWriteTracking, "needs userfaultfd with asynchronous write protection"))
struct PagemapLogTests {
  private func written(_ log: PagemapLog, _ count: Int = 64) throws -> [Int] {
    let bits = try log.fetchDirtyLog()
    return (0..<count).filter { bits[$0 >> 3] & 1 << UInt8($0 & 7) != 0 }
  }

  @Test func whatIsWrittenIsTold() throws {
    let memory = try MappedMemory(pageCount: 64, isShared: false)
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
    let memory = try MappedMemory(pageCount: 64, isShared: false)
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
    let memory = try MappedMemory(pageCount: 2048, isShared: false)
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
    let memory = try MappedMemory(pageCount: 16, isShared: false)
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
    let memory = try MappedMemory(pageCount: 16, isShared: false)
    let descriptor = try memory.register()
    let directory = try TestDirectory()
    let vm = ScriptedVMM(drains: false)
    for pause in [nil, LookPause(vm, session: testSession, in: directory.state)] {
      let log = try #require(try memory.log(pause: pause, hasDirectIO: { true }))
      #expect {
        try log.startDirtyLog()
      } throws: { error in
        "\(error)".contains("direct I/O")
          && (error as? VMMError)?.isCertainlyWithoutEffect ?? false
      }
    }
    #expect(vm.asked == [])
    withExtendedLifetime(descriptor.features) {}
  }

  /// The VM stands still for each look, but for the last one: it does so then anyway.
  @Test func aProcessWithDirectIOIsLookedAtWhileItStandsStill() throws {
    let memory = try MappedMemory(pageCount: 64, isShared: false)
    for page in 0..<64 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let directory = try TestDirectory()
    let vm = ScriptedVMM()
    let pause = LookPause(vm, session: testSession, in: directory.state)
    let log = try #require(try memory.log(pause: pause, hasDirectIO: { true }))
    try log.startDirtyLog()
    #expect(vm.asked == [.pause, .resume])
    memory.write(2, page: 7)
    #expect(try written(log) == [7])
    #expect(vm.asked == [.pause, .resume, .pause, .resume])
    memory.write(2, page: 9)
    let final = try log.fetchFinalDirtyLog()
    #expect(final[1] == 2 && vm.asked.count == 4)
    withExtendedLifetime(descriptor.features) {}
  }

  /// What was under way then has no mark any more.
  @Test func directIOThatBeginsDuringALookMakesEverythingWritten() throws {
    let memory = try MappedMemory(pageCount: 64, isShared: false)
    for page in 0..<64 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let directory = try TestDirectory()
    let vm = ScriptedVMM()
    let pause = LookPause(vm, session: testSession, in: directory.state)
    // What the looks are told, one after the other: the start's two, and those around each fetch.
    let answers = Lock([false, true, false, false, false, true, true])
    let log = try #require(
      try memory.log(pause: pause, hasDirectIO: { answers.withLock { $0.removeFirst() } }))
    try log.startDirtyLog()
    #expect(vm.asked == [.pause, .resume])
    memory.write(2, page: 7)
    #expect(try written(log) == [7] && vm.asked.count == 2)
    #expect(try written(log) == Array(0..<64))
    #expect(vm.asked == [.pause, .resume, .pause, .resume])
    #expect(try written(log) == [])
    #expect(answers.withLock { $0.isEmpty })
    withExtendedLifetime(descriptor.features) {}
  }

  /// The look has taken the kernel's marks away.
  @Test(arguments: [VMMVerb.status, .resume])
  func whatALookHasFoundIsNotLostWithWhatFollowsIt(failing: VMMVerb) throws {
    let memory = try MappedMemory(pageCount: 64, isShared: false)
    for page in 0..<64 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let directory = try TestDirectory()
    let vm = ScriptedVMM()
    let pause = LookPause(vm, session: testSession, in: directory.state)
    let log = try #require(try memory.log(pause: pause, hasDirectIO: { true }))
    try log.startDirtyLog()
    memory.write(2, page: 7)
    vm.state.withLock { state in
      state.failingStatusesWhenPaused = failing == .status ? 1 : 0
      state.failingResumes = failing == .resume ? 5 : 0
    }
    #expect(throws: VMMError.self) { try log.fetchDirtyLog() }
    #expect(try written(log) == Array(0..<64))
    memory.write(3, page: 9)
    #expect(try written(log) == [9])
    withExtendedLifetime(descriptor.features) {}
  }

  /// Direct I/O that the pause does not wait for may have begun behind the look.
  @Test func whatALookHasFoundIsNotLostWithARefusal() throws {
    let memory = try MappedMemory(pageCount: 64, isShared: false)
    for page in 0..<64 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    // The start's two, and those of three fetches, of which the first is refused behind its look.
    let answers = Lock([false, false, false, true, false, false, false, false])
    let log = try #require(
      try memory.log(hasDirectIO: { answers.withLock { $0.removeFirst() } }))
    try log.startDirtyLog()
    memory.write(2, page: 7)
    #expect(throws: VMMError.self) { try log.fetchDirtyLog() }
    #expect(try written(log) == Array(0..<64))
    #expect(try written(log) == [] && answers.withLock { $0.isEmpty })
    withExtendedLifetime(descriptor.features) {}
  }

  /// Threads that read a file into memory past the page cache, each into a part of its own, unless
  /// they are to stand still.
  private final class Readers: Sendable {
    private struct State {
      var isPaused = false
      var hasEnded = false
    }
    private let state = Lock(State())
    /// Held by each reader for the time of a read.
    private let reads: [Lock<Int>]

    init(count: Int) { reads = (0..<count).map { _ in Lock(0) } }

    var count: Int { reads.count }

    /// Reads of the one with the fewest.
    var fewestReads: Int { reads.map { $0.withLock { $0 } }.min() ?? 0 }

    func end() { state.withLock { $0.hasEnded = true } }

    /// Waits for the reads under way.
    func setPaused(_ isPaused: Bool) {
      state.withLock { $0.isPaused = isPaused }
      guard isPaused else { return }
      for reader in reads { reader.withLock { _ in } }
    }

    /// One reader's life: other blocks each time.
    func live(_ reader: Int, _ memory: MappedMemory, disk: String) throws {
      let file = try OwnedDescriptor.open(disk, flags: O_RDONLY | O_DIRECT)
      // In one piece: it takes long enough for a look, and a copy, in its middle.
      let byteCount = memory.byteCount / count
      while !state.withLock({ $0.hasEnded }) {
        let isRead = try reads[reader].withLock { turn throws -> Bool in
          guard !state.withLock({ $0.isPaused }) else { return false }
          // unsafe: a part of the memory, which outlives the readers.
          let result = unsafe pread(
            file.rawValue, memory.base + reader * byteCount, byteCount,
            (turn * count + reader) % Self.offsetCount * 4096)
          try #require(result == byteCount)
          turn += 1
          return true
        }
        if !isRead { _ = poll(nil, 0, 1) }
      }
    }

    /// Where a read may begin, by blocks: each turn at another one.
    static let offsetCount = 251
  }

  /// Does as a migration does: copies what is told, and has all of it in the end. Without the pause
  /// the reads that are under way during the last look before the end are missing then.
  @Test(.enabled(if: TestDisk.isPossible, "needs direct I/O on the file system of /var/tmp"))
  func whatDirectIOReadsIsNotLost() throws {
    // Little: whatever else runs here has the same disk.
    let pageCount = 256
    let readers = Readers(count: 4)
    let disk = try TestDisk(blockCount: Readers.offsetCount + pageCount / readers.count)
    let memory = try MappedMemory(pageCount: pageCount, isShared: false)
    for page in 0..<pageCount { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let directory = try TestDirectory()
    let vm = ScriptedVMM { readers.setPaused($0) }
    let pause = LookPause(vm, session: testSession, in: directory.state)
    let log = try #require(try memory.log(pause: pause, hasDirectIO: { true }))
    let threads = try (0..<readers.count).map { reader in
      try TestThread { try readers.live(reader, memory, disk: disk.path) }
    }
    defer { readers.end() }
    var copy = [UInt8](repeating: 0, count: memory.byteCount)
    for _ in 0..<5 {
      try log.startDirtyLog()
      memory.copy(0..<pageCount, to: &copy)
      for _ in 0..<3 {
        let before = readers.fewestReads
        let deadline = soon()
        while readers.fewestReads < before + 2 {
          try #require(MonotonicClock.now() < deadline)
          _ = poll(nil, 0, 1)
        }
        memory.copy(try written(log, pageCount), to: &copy)
      }
      try vm.pause()
      let final = try log.fetchFinalDirtyLog()
      memory.copy((0..<pageCount).filter { final[$0 >> 3] & 1 << UInt8($0 & 7) != 0 }, to: &copy)
      #expect(memory.differences(from: copy) == [])
      try vm.resume()
    }
    readers.end()
    for thread in threads { try thread.finish() }
    withExtendedLifetime(descriptor.features) {}
  }

  /// Whoever registered it has gone, and perhaps comes again: nothing is taken for unwritten.
  @Test func aRecordThatIsLostBeginsAnewWithEverything() throws {
    let memory = try MappedMemory(pageCount: 64, isShared: false)
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
}
