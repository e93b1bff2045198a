import Codec
import Migration
import Pages
import System
import Testing
import Uring
import VMM
import Wire

@testable import PageServer

/// A log that a test writes: what it holds is told with the next look.
final class ScriptedLog: DirtyLog {
  struct State {
    var written: Set<Int> = []
    var startCount = 0
    var fetchCount = 0
    var isWatching = false
    var hasFailed = false
    var earliestLook: Instant?
    /// How often it was asked for that.
    var askedCount = 0
  }
  let state = Lock(State())
  let pageCount: Int

  init(pageCount: Int) { self.pageCount = pageCount }

  /// By 4 KiB of the image.
  func write(_ pages: some Sequence<Int>) { state.withLock { $0.written.formUnion(pages) } }

  var earliestLook: Instant? {
    state.withLock { state in
      state.askedCount += 1
      return state.earliestLook
    }
  }

  func startDirtyLog() throws(VMMError) {
    state.withLock { state in
      state.startCount += 1
      state.isWatching = true
    }
  }

  func fetchDirtyLog() throws(VMMError) -> [UInt8] {
    let (written, hasFailed) = state.withLock { state in
      defer { state.written = [] }
      state.fetchCount += 1
      return (state.written, state.hasFailed)
    }
    if hasFailed {
      throw VMMError(
        vmName: "test", verb: .fetchDirtyLog, address: "test", problem: .silent("nothing"))
    }
    var bitmap = [UInt8](repeating: 0, count: (pageCount + 7) / 8)
    for page in written { bitmap[page >> 3] |= 1 << UInt8(page & 7) }
    return bitmap
  }

  func stopDirtyLog() throws(VMMError) { state.withLock { $0.isWatching = false } }
}

/// A thread of a test, whose error is the test's.
final class TestThread: Sendable {
  private let result = Lock<Result<Void, any Error>>(.success(()))
  private let thread: Lock<WorkerThread?>

  init(_ body: @escaping @Sendable () throws -> Void) throws {
    let result = result
    thread = Lock(
      try WorkerThread(name: "test") {
        let outcome = Result { try body() }
        result.withLock { $0 = outcome }
      })
  }

  func finish() throws {
    let taken: WorkerThread? = thread.withLock { $0.take() }
    if let taken { taken.join() }
    try result.withLock { try $0.get() }
  }
}

extension SeedRunEnd {
  var isDecided: Bool { if case .decided = self { true } else { false } }
  var isStaying: Bool { if case .staying = self { true } else { false } }
  var isLinkLost: Bool { if case .linkLost = self { true } else { false } }
}

@Suite(.timeLimit(.minutes(5))) struct SeederTests {
  /// What a destination has taken in, by page: the last content that came.
  final class Destination: Sendable {
    let pages = Lock<[Int: [UInt8]]>([:])
    let rounds = Lock<[UInt64]>([])
    let discards = Lock<[Int]>([])
    let isDiscardsWhole = Lock(false)
    let pushed = Lock<Set<Int>>([])

    /// Takes frames of one bulk connection until the end of it, or of the push; answers rounds
    /// after `between`.
    func serve(
      _ peer: TestPeer, _ layout: ImageLayout, between: @Sendable (UInt64) -> Void = { _ in }
    ) throws {
      try peer.grant(total: 1 << 40)
      while true {
        let frame = try peer.receive()
        let flat = frame.header.type.namesPages ? layout.flatRange(of: frame.header.run) : 0..<0
        switch frame.header.type {
        case .seedPages:
          let size = frame.payload.count / flat.count
          let before = try flat.flatMap { page in
            frame.delta == nil
              ? [UInt8](repeating: 0, count: size) : try #require(pages.withLock { $0[page] })
          }
          let contents = zip(frame.payload, before).map { $0 ^ $1 }
          try frame.delta?.verify(contents.rawBytes, of: .seedPages)
          for (position, page) in flat.enumerated() {
            let bytes = Array(contents[position * size..<(position + 1) * size])
            pages.withLock { $0[page] = bytes }
          }
        case .seedZeros:
          for page in flat { pages.withLock { $0[page] = [] } }
        case .seedRound:
          let number = try SeedRound.number(in: frame.payload.rawBytes, of: .seedRound)
          between(number)
          rounds.withLock { $0.append(number) }
          let answer = SeedRound.appliedFrame(number, session: testSession.shortID)
          try peer.connection.send(answer)
        case .discardMap:
          for entry in 0..<(try RunMap.discard.runCount(in: frame.payload.rawBytes)) {
            let run = try RunMap.discard.run(at: entry, in: frame.payload.rawBytes, of: layout)
            discards.withLock { $0 += Array(layout.flatRange(of: run)) }
          }
          if frame.header.flags.contains(.last) { isDiscardsWhole.withLock { $0 = true } }
        case .pages, .zeroPages: pushed.withLock { $0.formUnion(flat) }
        case .pushFinished: return
        default: break
        }
      }
    }
  }

  let on = RoundVerdict.goOn(obstacle: nil)

  /// Runs the rounds over a link that ends in them; told of that, it is cut as a session cuts it.
  func runUntilLost(
    _ seeder: Seeder, over plane: SourceDataPlane,
    told: (SeedRoundNote) -> Void = { _ in }
  ) throws {
    let ender = try TestThread {
      while let notice = plane.events.receive(until: soon()) {
        if case .linkLost = notice { break }
      }
      plane.cut()
    }
    #expect(try seeder.run(over: plane, told: told).isLinkLost)
    try ender.finish()
  }

  func noted(_ notes: Lock<[SeedRoundNote]>) -> [SeedRoundNote] { notes.withLock { $0 } }

  @Test(arguments: [1, 3])
  func eachRoundSendsWhatWasWrittenInTheOneBefore(bulkCount: Int) throws {
    let memory = try TestMemory(pageCount: 96)
    try memory.fill(0..<64)
    let migration = try TestMigration(try memory.open(), bulkCount: bulkCount)
    let log = ScriptedLog(pageCount: 96)
    let seeder = Seeder(
      layout: migration.layout, log: log,
      limits: SwitchLimits(downtimeNanoseconds: 0, maximumRoundCount: 3))
    let destination = Destination()
    let hasWritten = Lock<Set<UInt64>>([])
    // While a round is on its way, the guest writes.
    let between: @Sendable (UInt64) -> Void = { round in
      guard hasWritten.withLock({ $0.insert(round).inserted }) else { return }
      switch round {
      case 1:
        try? memory.write(TestMemory.content(1000), page: 3)
        log.write([3, 70])
        try? memory.write(TestMemory.content(1001), page: 70)
      case 2:
        try? memory.write(TestMemory.content(1002), page: 3)
        log.write([3])
      default:
        try? memory.write(TestMemory.content(1003), page: 64)
        log.write([64])
      }
    }
    let threads = try migration.bulk.map { peer in
      try TestThread { try destination.serve(peer, migration.layout, between: between) }
    }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(end.isDecided && log.state.withLock { $0.startCount } == 1)
    #expect(noted(notes).map(\.number) == [1, 2, 3])
    #expect(noted(notes).map(\.result.sentByteCount) == [64 * 4096, 2 * 4096, 4096])
    #expect(noted(notes).map(\.verdict) == [on, on, .switchOver(.rounds)])
    #expect(destination.pages.withLock { $0[3] } == TestMemory.content(1002))
    #expect(destination.pages.withLock { $0[70] } == TestMemory.content(1001))
    #expect(destination.pages.withLock { $0[80] } == [])
    log.write([5])
    let (stale, fresh) = try seeder.finish()
    seeder.stopLog()
    #expect(!log.state.withLock { $0.isWatching })
    #expect((0..<96).filter { stale[$0] } == [5, 64])
    #expect(fresh.setCount == 94)
    migration.plane.discard(stale, keeping: fresh)
    try migration.beginServing()
    migration.plane.beginPush()
    for thread in threads { try thread.finish() }
    #expect(destination.discards.withLock { $0.sorted() } == [5, 64])
    #expect(destination.isDiscardsWhole.withLock { $0 })
    #expect(destination.pushed.withLock { $0 } == [5, 64])
    #expect(migration.plane.counts().seededDataPageCount == 67)
    #expect(migration.plane.counts().settledPageCount == 96)
  }

  /// What ends a round in its middle.
  enum Interruption: CaseIterable { case time, timeOfPreCopy, operatorsWord }

  @Test(arguments: Interruption.allCases)
  func aRoundCanBeEndedInItsMiddle(by interruption: Interruption) throws {
    let memory = try TestMemory(pageCount: 512)
    try memory.fill(0..<512)
    let migration = try TestMigration(try memory.open())
    let log = ScriptedLog(pageCount: 512)
    let isTimed = interruption != .operatorsWord
    let seeder = Seeder(
      layout: migration.layout, log: log,
      // Whatever the link seems to carry, nothing fits so little.
      limits: SwitchLimits(
        downtimeNanoseconds: 1, maximumNanoseconds: isTimed ? 50_000_000 : nil,
        atLimit: interruption == .timeOfPreCopy ? .stay : nil))
    let peer = migration.bulk[0]
    let destination = Destination()
    let layout = migration.layout
    // So little credit that the round cannot end by itself.
    let thread = try TestThread {
      try peer.grant(total: 65_536)
      var frame = try peer.receive()
      if !isTimed { seeder.switchOver() }
      while frame.header.type == .seedPages { frame = try peer.receive() }
      #expect(frame.header.type == .seedRound)
      try peer.connection.send(SeedRound.appliedFrame(1, session: testSession.shortID))
      try destination.serve(peer, layout)
    }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    let expected: RoundVerdict =
      switch interruption {
      case .time: .switchOver(.time)
      case .timeOfPreCopy: .stay(.time)
      case .operatorsWord: .switchOver(.told)
      }
    #expect(noted(notes).map(\.verdict) == [expected])
    #expect(interruption == .timeOfPreCopy ? end.isStaying : end.isDecided)
    let (stale, fresh) = try seeder.finish()
    // The others were named as stale before the pause.
    #expect(fresh.setCount < 512)
    migration.plane.discard(stale, keeping: fresh)
    try migration.beginServing()
    migration.plane.beginPush()
    try thread.finish()
    // All that was not sent is pushed, and nothing else.
    #expect(destination.pushed.withLock { $0.count } == 512 - fresh.setCount)
  }

  /// An order that comes before the first round leaves everything to post-copy.
  @Test func toldBeforeTheFirstRoundNothingIsSeeded() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let migration = try TestMigration(try memory.open())
    let log = ScriptedLog(pageCount: 64)
    let seeder = Seeder(layout: migration.layout, log: log, limits: SwitchLimits(atLimit: .stay))
    seeder.switchOver()
    let destination = Destination()
    let peer = migration.bulk[0]
    let layout = migration.layout
    let thread = try TestThread { try destination.serve(peer, layout) }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(end.isDecided && noted(notes).map(\.verdict) == [.switchOver(.told)])
    let (stale, fresh) = try seeder.finish()
    #expect(stale.setCount == 0 && fresh.setCount == 0)
    migration.plane.discard(stale, keeping: fresh)
    try migration.beginServing()
    migration.plane.beginPush()
    try thread.finish()
    #expect(destination.pages.withLock { $0.isEmpty })
    #expect(destination.pushed.withLock { $0 == Set(0..<64) })
  }

  @Test func aLogThatIsLostIsTold() throws {
    let memory = try TestMemory(pageCount: 16)
    let migration = try TestMigration(try memory.open())
    let log = ScriptedLog(pageCount: 16)
    log.state.withLock { $0.hasFailed = true }
    let seeder = Seeder(layout: migration.layout, log: log, limits: SwitchLimits())
    let destination = Destination()
    let peer = migration.bulk[0]
    let layout = migration.layout
    let thread = try TestThread { try? destination.serve(peer, layout) }
    #expect(throws: VMMError.self) { _ = try seeder.run(over: migration.plane) { _ in } }
    peer.connection.shutdown()
    try thread.finish()
    // Whoever it answers next cannot know what it took out of the log when it failed.
    log.state.withLock { $0.hasFailed = false }
    let next = try TestMigration(try memory.open())
    #expect(throws: VMMError.self) { _ = try seeder.run(over: next.plane) { _ in } }
    #expect(throws: VMMError.self) { _ = try seeder.finish() }
  }

  @Test(arguments: [0, 1, 2] as [UInt64])
  func anAnswerToARoundThatHasNotEndedBreaksTheProtocol(round: UInt64) throws {
    let memory = try TestMemory(pageCount: 16)
    let migration = try TestMigration(try memory.open())
    let answer = SeedRound.appliedFrame(round, session: testSession.shortID)
    try migration.bulk[0].connection.send(answer)
    guard case .linkLost(.bulk, .violation(let error)) = try migration.notice() else {
      Issue.record("the link is given up")
      return
    }
    #expect(error == .misplaced(.seedRoundApplied, from: .destination, on: .bulk))
  }
}
