import Prefetch
import System
import Testing
import Wire

@testable import PageServer

extension BulkSenderTests {
  /// Pages of one byte pack to next to nothing; those of noise are sent as they are.
  @Test(arguments: [Packing.lz4, .zstd])
  func pagesArePackedWhereThatMakesLessOfThem(packing: Packing) throws {
    let memory = try TestMemory(pageCount: 512)
    // A page of noise twice in a run would pack to one.
    let noise = (0..<256).map { _ in (0..<4096).map { _ in UInt8.random(in: 0...255) } }
    let content = { @Sendable (page: Int) in
      page < 256 ? TestMemory.content(page) : noise[page - 256]
    }
    for page in 0..<512 { try memory.write(content(page), page: page) }
    let migration = try TestMigration(
      try memory.open(), bulkCount: 2, prefetch: .linear, packing: packing)
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration, window: 65_536, expected: content)
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.areComplete)
    }
    let counts = migration.plane.counts()
    let packed = packing == .lz4 ? counts.lz4 : counts.zstd
    let other = packing == .lz4 ? counts.zstd : counts.lz4
    #expect(packed.pageByteCount == 256 * 4096 && packed.sentByteCount < 256 * 4096 / 8)
    #expect(other == PackedCounts())
    #expect(counts.pushedDataPageCount == 512)
    // What a vCPU waits for is never packed.
    try migration.urgent.request(3, sequence: 1)
    let answer = try migration.urgent.receive()
    #expect(!answer.header.flags.contains(.packed) && answer.payload == TestMemory.content(3))
  }
}
