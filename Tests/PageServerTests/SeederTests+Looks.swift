import Codec
import Glibc
import Migration
import Pages
import System
import Testing
import Uring
import VMM
import Wire

@testable import PageServer

// What is looked at in the middle of a round, and named behind the last one.
extension SeederTests {
  /// A page that is written before it is sent goes once, as it is then; one that was sent already
  /// goes again.
  @Test(arguments: [false, true])
  func whatIsWrittenBeforeItIsSentIsNotSentAgain(isLost: Bool) throws {
    let memory = try TestMemory(pageCount: 512)
    try memory.fill(0..<512)
    let migration = try TestMigration(try memory.open())
    let log = ScriptedLog(pageCount: 512)
    let seeder = Seeder(
      layout: migration.layout, log: log,
      limits: SwitchLimits(downtimeNanoseconds: 0, maximumRoundCount: 2))
    let peer = migration.bulk[0]
    let destination = Destination()
    let layout = migration.layout
    let thread = try TestThread {
      // Enough for a quarter, and the rest when the log was looked at.
      try peer.grant(total: 128 * 4096)
      _ = try peer.receive()
      try memory.write(TestMemory.content(1000), page: 0)
      try memory.write(TestMemory.content(1001), page: 500)
      log.write([0, 500])
      let deadline = soon()
      while log.state.withLock({ $0.fetchCount }) == 0, MonotonicClock.now() < deadline {
        _ = try Readiness.wait(
          for: [], until: MonotonicClock.now().advanced(byNanoseconds: 1_000_000))
      }
      guard !isLost else { return peer.connection.shutdown() }
      try destination.serve(peer, layout)
    }
    guard !isLost else {
      try runUntilLost(seeder, over: migration.plane)
      try thread.finish()
      // What credit has told to be there is fresh, but for what was written behind it.
      let (stale, _) = try seeder.finish()
      return #expect(stale[0] && stale[500])
    }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(end.isDecided)
    #expect(noted(notes).map(\.result.dirtiedByteCount) == [4096, 0])
    #expect(noted(notes).map(\.result.sentByteCount) == [512 * 4096, 4096])
    #expect(destination.pages.withLock { $0[0] } == TestMemory.content(1000))
    #expect(destination.pages.withLock { $0[500] } == TestMemory.content(1001))
    peer.connection.shutdown()
    // Its connection is ended before the push.
    #expect(throws: (any Error).self) { try thread.finish() }
  }

  /// A VM that was stopped for a look is not stopped again before its time, unless the rounds are
  /// over.
  @Test func aLookThatStopsTheVMComesNotBeforeItsTime() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    let migration = try TestMigration(try memory.open())
    let log = ScriptedLog(pageCount: 16)
    log.state.withLock {
      $0.earliestLook = MonotonicClock.now().advanced(byNanoseconds: 3_600_000_000_000)
    }
    let seeder = Seeder(
      layout: migration.layout, log: log, limits: SwitchLimits(downtimeNanoseconds: 0))
    let peer = migration.bulk[0]
    let destination = Destination()
    let looksBefore = Lock(0)
    let threads = try [
      TestThread { try? destination.serve(peer, migration.layout) },
      TestThread {
        // It has asked again and again whether it may, and has not looked.
        let deadline = soon()
        while log.state.withLock(\.askedCount) < 3, MonotonicClock.now() < deadline {
          _ = sched_yield()
        }
        #expect(log.state.withLock(\.askedCount) >= 3)
        looksBefore.withLock { $0 = log.state.withLock(\.fetchCount) }
        seeder.switchOver()
      },
    ]
    #expect(try seeder.run(over: migration.plane) { _ in }.isDecided)
    #expect(looksBefore.withLock { $0 } == 0)
    #expect(log.state.withLock { $0.fetchCount } == 1)
    peer.connection.shutdown()
    for thread in threads { try thread.finish() }
  }

  /// What is known to be stale when the switch is decided is dropped before the VM is stopped.
  @Test(arguments: [1, 2], [false, true])
  func whatIsStaleAlreadyIsNamedBeforeThePause(bulkCount: Int, isLost: Bool) throws {
    let memory = try TestMemory(pageCount: 256)
    try memory.fill(0..<256)
    let first = try TestMigration(try memory.open(), bulkCount: bulkCount)
    let log = ScriptedLog(pageCount: 256)
    let seeds = SentSeeds(deltaCacheByteCount: 1 << 20)
    let seeder = Seeder(
      layout: first.layout, log: log,
      limits: SwitchLimits(downtimeNanoseconds: 0, maximumRoundCount: 1), seeds: seeds)
    if isLost {
      // Its link is lost when the destination has named them, and before it has said so.
      let destination = Destination()
      let threads = try first.bulk.map { peer in
        try TestThread {
          try? destination.serve(peer, first.layout) { round in
            if round == 1 { log.write(100..<200) }
            if round == 2 { for peer in first.bulk { peer.connection.shutdown() } }
          }
        }
      }
      try runUntilLost(seeder, over: first.plane)
      for thread in threads { try thread.finish() }
    }
    let migration = isLost ? try TestMigration(try memory.open(), bulkCount: bulkCount) : first
    let destination = Destination()
    let threads = try migration.bulk.map { peer in
      try TestThread {
        try destination.serve(peer, migration.layout) { round in
          if round == 1 { log.write(100..<200) }
        }
      }
    }
    #expect(try seeder.run(over: migration.plane) { _ in }.isDecided)
    #expect(destination.discards.withLock { $0.sorted() } == Array(100..<200))
    #expect(!destination.isDiscardsWhole.withLock { $0 })
    log.write([5, 150])
    let (stale, fresh) = try seeder.finish()
    #expect((0..<256).filter { stale[$0] } == [5])
    #expect(fresh.setCount == 155)
    migration.plane.discard(stale, keeping: fresh)
    try migration.beginServing()
    migration.plane.beginPush()
    for thread in threads { try thread.finish() }
    #expect(destination.discards.withLock { $0.sorted() } == [5] + Array(100..<200))
    #expect(destination.isDiscardsWhole.withLock { $0 })
    #expect(destination.pushed.withLock { $0 } == Set(100..<200).union([5]))
  }
}
