import Pages
import System
import Testing
import UFFD
import VMM

@testable import PageServer

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
