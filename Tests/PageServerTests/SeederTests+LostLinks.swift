import Migration
import Pages
import System
import Testing
import Uring
import Wire

@testable import PageServer

// What becomes of a round whose link is lost.
extension SeederTests {
  @Test func whatWasUnderWayOnALostLinkIsSentAgain() throws {
    let memory = try TestMemory(pageCount: 32)
    try memory.fill(0..<32)
    let log = ScriptedLog(pageCount: 32)
    let backing = try memory.open()
    let first = try TestMigration(backing)
    let seeder = Seeder(layout: first.layout, log: log, limits: SwitchLimits())
    // It takes all of round 1, and its answer is lost with the link.
    let peer = first.bulk[0]
    let reader = try TestThread {
      try peer.grant(total: 1 << 30)
      while try peer.receive().header.type != .seedRound {}
      peer.connection.shutdown()
    }
    try runUntilLost(seeder, over: first.plane) { _ in Issue.record("no round has ended") }
    try reader.finish()
    log.write([7])
    let second = try TestMigration(backing, isReturn: true)
    let destination = Destination()
    let bulk = second.bulk[0]
    let layout = second.layout
    let thread = try TestThread {
      try destination.serve(bulk, layout) { round in if round == 2 { log.write([9]) } }
    }
    let notes = Lock<[SeedRoundNote]>([])
    let secondEnd = try seeder.run(over: second.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(secondEnd.isDecided)
    // All of the lost round, whatever of it has arrived.
    let sent = noted(notes).map(\.result.sentByteCount)
    #expect(sent.first.map { $0 == 32 * 4096 } ?? false)
    #expect(log.state.withLock { $0.startCount } == 1)
    // The map that a returning destination tells is of pages that may be stale.
    try second.bulk[0].tellResidency([0..<32], of: 32)
    let (stale, fresh) = try seeder.finish()
    #expect((0..<32).filter { stale[$0] || !fresh[$0] } == (0..<32).filter { stale[$0] })
    second.plane.discard(stale, keeping: fresh)
    try second.beginServing()
    second.plane.beginPush()
    try thread.finish()
    #expect(
      destination.pushed.withLock { $0.sorted() } == destination.discards.withLock { $0.sorted() })
  }

  /// Sixteen pages in one frame, for which it gives credit; the frames behind them are lost.
  @Test func whatALostLinkHasBroughtIsNotSentAgain() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let log = ScriptedLog(pageCount: 64)
    let backing = try memory.open()
    let first = try TestMigration(backing)
    let seeder = Seeder(layout: first.layout, log: log, limits: SwitchLimits())
    let peer = first.bulk[0]
    let taken = Lock<[Int]>([])
    let layout = first.layout
    let reader = try TestThread {
      try peer.grant(total: 65_536)
      let frame = try peer.receive()
      taken.withLock { $0 = Array(layout.flatRange(of: frame.header.run)) }
      try peer.grant(total: 131_072)
      // It is sent behind that grant alone, and nothing tells that it has come.
      _ = try peer.receive()
      peer.connection.shutdown()
    }
    try runUntilLost(seeder, over: first.plane) { _ in Issue.record("no round has ended") }
    try reader.finish()
    #expect(taken.withLock { $0.count } == 16)
    // One of them is written meanwhile.
    log.write(taken.withLock { $0.prefix(1) })
    let second = try TestMigration(backing, isReturn: true)
    let destination = Destination()
    let bulk = second.bulk[0]
    let thread = try TestThread { try destination.serve(bulk, layout) }
    let notes = Lock<[SeedRoundNote]>([])
    let secondEnd = try seeder.run(over: second.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(secondEnd.isDecided)
    #expect(noted(notes).map(\.result.sentByteCount) == [49 * 4096])
    let sentAgain = destination.pages.withLock { $0.keys.sorted() }
    #expect(sentAgain == (0..<64).filter { !taken.withLock { $0.dropFirst() }.contains($0) })
    try bulk.tellResidency([], of: 64)
    let (stale, fresh) = try seeder.finish()
    #expect(stale.setCount == 0 && fresh.setCount == 64)
    second.plane.discard(stale, keeping: fresh)
    try second.beginServing()
    second.plane.beginPush()
    try thread.finish()
    #expect(destination.pushed.withLock { $0 } == [])
  }

  /// The last page of a round has come, with its content or as zeros, and no grant has told so when
  /// the round is answered. Then it is written, and the next round is lost before it is sent again.
  @Test(arguments: [false, true])
  func whatTheRoundBeforeBroughtIsNotTakenForThis(wasZero: Bool) throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<(wasZero ? 63 : 64))
    let log = ScriptedLog(pageCount: 64)
    let backing = try memory.open()
    let first = try TestMigration(backing)
    let seeder = Seeder(
      layout: first.layout, log: log, limits: SwitchLimits(downtimeNanoseconds: 0))
    let peer = first.bulk[0]
    let reader = try TestThread {
      // So much that the first frame of round 2 still fits, and not the second.
      let window = (wasZero ? 63 : 64) * 4096 + 65_536
      try peer.grant(total: window)
      while try peer.receive().header.type != .seedRound {}
      log.write(Array(0..<16) + [63])
      try memory.write(TestMemory.content(1000), page: 63)
      try peer.connection.send(SeedRound.appliedFrame(1, session: testSession.shortID))
      #expect(try peer.receive().header.run.count == PageCount(16))
      try peer.grant(total: 2 * window)
      #expect(try peer.receive().header.run.start == PageIndex(63))
      peer.connection.shutdown()
    }
    try runUntilLost(seeder, over: first.plane)
    try reader.finish()
    let second = try TestMigration(backing, isReturn: true)
    let destination = Destination()
    let bulk = second.bulk[0]
    let layout = second.layout
    let thread = try TestThread { try destination.serve(bulk, layout) }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: second.plane) { note in notes.withLock { $0.append(note) } }
    #expect(end.isDecided && noted(notes).map(\.result.sentByteCount) == [4096])
    #expect(destination.pages.withLock { $0 } == [63: TestMemory.content(1000)])
    second.plane.cut()
    bulk.connection.shutdown()
    try? thread.finish()
  }

  /// It lives and takes nothing in: the link is given up, and such rounds come to an end as well.
  @Test func aDestinationThatTakesNothingIsGivenUp() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let log = ScriptedLog(pageCount: 64)
    let backing = try memory.open()
    let seeder = Seeder(
      layout: backing.naturalLayout, log: log, limits: SwitchLimits(maximumRoundCount: 2),
      stallNanoseconds: 100_000_000)
    for count in 1...3 {
      let migration = try TestMigration(backing, isReturn: count > 1)
      // What is granted once is taken in, by what the next grant says.
      try migration.bulk[0].grant(total: 65_536)
      try migration.bulk[0].grant(total: 65_536 + 4096)
      let end = try seeder.run(over: migration.plane) { _ in Issue.record("no round has ended") }
      guard case .unanswered = end else {
        Issue.record("\(end)")
        return
      }
      migration.plane.cut()
    }
    let last = try TestMigration(backing, isReturn: true)
    let destination = Destination()
    let bulk = last.bulk[0]
    let layout = last.layout
    let thread = try TestThread { try destination.serve(bulk, layout) }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: last.plane) { note in notes.withLock { $0.append(note) } }
    #expect(end.isDecided && noted(notes).map(\.verdict) == [.switchOver(.rounds)])
    last.plane.cut()
    bulk.connection.shutdown()
    try? thread.finish()
  }

  /// Links that are lost before they bring anything are rounds as well: they come to an end.
  @Test func linksThatBringNothingEndTheRounds() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    let log = ScriptedLog(pageCount: 16)
    let backing = try memory.open()
    let limits = SwitchLimits(maximumRoundCount: 3)
    let seeder = Seeder(layout: backing.naturalLayout, log: log, limits: limits)
    // The first one tells how much there is to do.
    for _ in 0..<4 {
      let migration = try TestMigration(backing, isReturn: true)
      migration.plane.cut()
      #expect(try seeder.run(over: migration.plane) { _ in Issue.record("none ends") }.isLinkLost)
    }
    let last = try TestMigration(backing, isReturn: true)
    let destination = Destination()
    let bulk = last.bulk[0]
    let layout = last.layout
    let thread = try TestThread { try destination.serve(bulk, layout) }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: last.plane) { note in notes.withLock { $0.append(note) } }
    #expect(end.isDecided && noted(notes).map(\.verdict) == [.switchOver(.rounds)])
    #expect(noted(notes).map(\.result.sentByteCount) == [0])
    last.plane.cut()
    bulk.connection.shutdown()
    try? thread.finish()
  }
}
