import Codec
import Pages
import System
import Testing
import Uring
import Wire

@testable import PageServer

/// Real memory of which some pages answer as broken memory does. Poison itself cannot be made where
/// the kernel was built without CONFIG_MEMORY_FAILURE; `FileBackingTests` holds what proves it.
final class PoisonedBacking: MemoryBacking {
  let sound: any MemoryBacking
  let poisonedPages: Set<Int>

  init(_ sound: any MemoryBacking, poisonedPages: Set<Int>) {
    self.sound = sound
    self.poisonedPages = poisonedPages
  }

  var source: MemorySource { sound.source }
  var identity: MemoryIdentity { sound.identity }
  var isVolatile: Bool { sound.isVolatile }
  var naturalLayout: ImageLayout { sound.naturalLayout }
  func markFrozen() throws(MemoryError) { try sound.markFrozen() }

  @_lifetime(bytes: copy bytes)
  func read(
    into bytes: inout MutableRawSpan, at offset: UInt64, pageByteCount: Int
  ) throws(MemoryError) -> MemoryRead {
    let result = try sound.read(into: &bytes, at: offset, pageByteCount: pageByteCount)
    let first = Int(offset) / pageByteCount
    for page in 0..<bytes.byteCount / pageByteCount where poisonedPages.contains(first + page) {
      return .poisoned(atOffset: page * pageByteCount)
    }
    return result
  }

  func searchAbsent(
    in range: Range<UInt64>, _ found: (Range<UInt64>) -> Void
  ) throws(MemoryError) -> UInt64 {
    try sound.searchAbsent(in: range, found)
  }
}

@Suite(.timeLimit(.minutes(5))) struct PoisonTests {
  @Test func aPoisonedPageIsToldAndItsNeighboursAreSent() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    let poisoned: Set = [0, 3, 4, 15]
    let migration = try TestMigration(
      PoisonedBacking(try memory.open(), poisonedPages: poisoned))
    try migration.beginServing()
    try migration.urgent.request(0, count: 16, sequence: 1)
    var answered = Set<Int>()
    while answered.count < 16 {
      let frame = try migration.urgent.receive()
      for (position, index) in migration.layout.flatRange(of: frame.header.run).enumerated() {
        answered.insert(index)
        #expect(frame.header.type == (poisoned.contains(index) ? .poisonedPages : .pages))
        if frame.header.type == .pages {
          #expect(
            Array(frame.payload[position * 4096..<(position + 1) * 4096])
              == TestMemory.content(index))
        }
      }
    }
    #expect(migration.plane.events.take() == nil)
    // What is sent is counted behind that: when the threads have ended, all of it is.
    migration.urgent.connection.shutdown()
    migration.plane.stop()
    #expect(migration.plane.counts().poisonedPageCount == 4)
  }

  @Test func pushTellsPoisonToo() throws {
    let memory = try TestMemory(pageCount: 32)
    try memory.fill(0..<32)
    let migration = try TestMigration(
      PoisonedBacking(try memory.open(), poisonedPages: [7, 31]))
    try migration.beginServing()
    try migration.bulk[0].grant(total: 1 << 20)
    migration.plane.beginPush()
    var poisoned: [Int] = []
    while true {
      let frame = try migration.bulk[0].receive()
      if frame.header.type == .pushFinished { break }
      if frame.header.type == .poisonedPages {
        poisoned += migration.layout.flatRange(of: frame.header.run)
      }
    }
    #expect(poisoned.sorted() == [7, 31])
  }

  @Test func tooMuchPoisonIsAFailingDevice() throws {
    let limit = SourceContext.maximumPoisonedPageCount
    let memory = try TestMemory(pageCount: limit + 1)
    try memory.fill(0...limit)
    let migration = try TestMigration(
      PoisonedBacking(try memory.open(), poisonedPages: Set(0...limit)), prefetch: nil)
    try migration.beginServing()
    for page in 0..<limit {
      // Asked twice, as after a restart: counted once.
      for _ in 0..<2 {
        try migration.urgent.request(page, sequence: 1)
        #expect(try migration.urgent.receive().header.type == .poisonedPages)
      }
    }
    try migration.urgent.request(limit, sequence: 1)
    guard case .memoryLost(.tooManyPoisonedPages(_, limit + 1)) = try migration.notice() else {
      Issue.record("a failing device is told")
      return
    }
  }
}
