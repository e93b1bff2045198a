import Migration
import Pages
import System
import Testing
import Uring
import Wire

@testable import PageServer

// What rounds send of pages that they have sent before.
extension SeederTests {
  /// Three rounds; `between` writes while one is on its way.
  private func move(
    _ memory: TestMemory, cachePageCount: Int, rounds: UInt64 = 3,
    between: @escaping @Sendable (UInt64, ScriptedLog) throws -> Void
  ) throws -> (destination: Destination, counts: SourceCounts, notes: [SeedRoundNote]) {
    let seeds = SentSeeds(deltaCacheByteCount: UInt64(cachePageCount * 4096))
    let migration = try TestMigration(try memory.open(), packing: .lz4, sentSeeds: seeds)
    let log = ScriptedLog(pageCount: memory.pageCount)
    let seeder = Seeder(
      layout: migration.layout, log: log,
      limits: SwitchLimits(
        downtimeNanoseconds: 0, maximumRoundCount: rounds, atLimit: .switchOver), seeds: seeds)
    let destination = Destination()
    let bulk = migration.bulk[0]
    let layout = migration.layout
    let thread = try TestThread {
      try destination.serve(bulk, layout) { round in
        do { try between(round, log) } catch { Issue.record(error) }
      }
    }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(end.isDecided)
    let (stale, fresh) = try seeder.finish()
    migration.plane.discard(stale, keeping: fresh)
    try migration.beginServing()
    migration.plane.beginPush()
    try thread.finish()
    return (destination, migration.plane.counts(), noted(notes))
  }

  /// One byte of each; to an even value, which none of them has there.
  private func change(_ memory: TestMemory, _ pages: Range<Int>, to value: UInt8) throws {
    for page in pages {
      var contents = TestMemory.content(page)
      contents[2000] = value
      try memory.write(contents, page: page)
    }
  }

  @Test func whatIsSentAgainIsWhatHasChanged() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let moved = try move(memory, cachePageCount: 64) { round, log in
      guard round < 3 else { return }
      try change(memory, 8..<40, to: UInt8(round) * 2)
      log.write(8..<40)
    }
    #expect(moved.counts.delta.pageByteCount == 2 * 32 * 4096)
    #expect(moved.counts.delta.sentByteCount < 64 * 100)
    #expect(moved.counts.seededDataPageCount == 64 + 2 * 32)
    for page in 0..<64 {
      var expected = TestMemory.content(page)
      if (8..<40).contains(page) { expected[2000] = 4 }
      #expect(moved.destination.pages.withLock { $0[page] } == expected)
    }
  }

  /// They are in the log because they were written, and hold what they held.
  @Test func whatIsTheSameIsNotSentAgain() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let moved = try move(memory, cachePageCount: 64, rounds: 2) { round, log in
      guard round == 1 else { return }
      try change(memory, 20..<21, to: 2)
      log.write(8..<40)
    }
    #expect(moved.counts.seededSamePageCount == 31)
    #expect(moved.counts.seededDataPageCount == 65)
    #expect(moved.counts.delta.pageByteCount == 4096)
    // Nothing of it is stale.
    #expect(moved.destination.discards.withLock { $0 } == [])
    #expect(moved.destination.pushed.withLock { $0 } == [])
  }

  /// A page that became zeros is known no more, and comes whole when it is written again.
  @Test func whatWasZerosMeanwhileComesWhole() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    let moved = try move(memory, cachePageCount: 16) { round, log in
      guard round < 3 else { return }
      let zeros = [UInt8](repeating: 0, count: 4096)
      try memory.write(round == 1 ? zeros : TestMemory.content(3), page: 3)
      log.write([3])
    }
    #expect(moved.counts.delta.pageByteCount == 0 && moved.counts.seededZeroPageCount == 1)
    #expect(moved.destination.pages.withLock { $0[3] } == TestMemory.content(3))
  }

  /// Twice as many pages as there is room for.
  @Test func aSmallCacheServesAPart() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let moved = try move(memory, cachePageCount: 32) { round, log in
      guard round < 3 else { return }
      try change(memory, 0..<64, to: UInt8(round) * 2)
      log.write(0..<64)
    }
    #expect(moved.counts.delta.pageByteCount == 2 * 32 * 4096)
    for page in 0..<64 {
      #expect(moved.destination.pages.withLock { $0[page]?[2000] } == 4)
    }
  }

  /// Page 0 is sent with a change that the destination never takes in; what it has is the page of
  /// round 1. Then the page is sent once more: whole, since nobody knows what it would be against.
  @Test func whatALostLinkSentIsNotKnown() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    let log = ScriptedLog(pageCount: 16)
    let backing = try memory.open()
    let seeds = SentSeeds(deltaCacheByteCount: 16 * 4096)
    let first = try TestMigration(backing, packing: .lz4, sentSeeds: seeds)
    let seeder = Seeder(
      layout: first.layout, log: log, limits: SwitchLimits(downtimeNanoseconds: 0),
      seeds: seeds)
    let peer = first.bulk[0]
    let reader = try TestThread {
      try peer.grant(total: 1 << 30)
      while try peer.receive().header.type != .seedRound {}
      try change(memory, 0..<2, to: 2)
      log.write([0, 1])
      try peer.connection.send(SeedRound.appliedFrame(1, session: testSession.shortID))
      #expect(try peer.receive().delta != nil)
      peer.connection.shutdown()
    }
    try runUntilLost(seeder, over: first.plane)
    try reader.finish()
    // Page 2 was sent in round 1, and its change is against that.
    try change(memory, 2..<3, to: 8)
    log.write([2])
    let second = try TestMigration(backing, isReturn: true, packing: .lz4, sentSeeds: seeds)
    let destination = Destination()
    destination.pages.withLock { $0[2] = TestMemory.content(2) }
    let bulk = second.bulk[0]
    let layout = second.layout
    let thread = try TestThread { try destination.serve(bulk, layout) }
    #expect(try seeder.run(over: second.plane) { _ in }.isDecided)
    let found = destination.pages.withLock { $0 }
    #expect(found.mapValues { $0[2000] } == [0: 2, 1: 2, 2: 8])
    #expect(second.plane.counts().delta.pageByteCount == 4096)
    second.plane.cut()
    bulk.connection.shutdown()
    try? thread.finish()
  }
}
