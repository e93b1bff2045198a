import Codec
import Pages
import Prefetch
import System
import Testing
import Uring
import Wire

@testable import PageServer

@Suite(.timeLimit(.minutes(5))) struct UrgentServerTests {
  /// 64 pages: every fourth a hole, every fourth written zeros, the others with their contents.
  static func mixedMemory() throws -> TestMemory {
    let memory = try TestMemory(pageCount: 64)
    for page in 0..<64 where page % 4 != 3 {
      try memory.write(expected(page), page: page)
    }
    return memory
  }

  static func expected(_ page: Int) -> [UInt8] {
    page % 4 >= 2 ? [UInt8](repeating: 0, count: 4096) : TestMemory.content(page)
  }

  @Test(arguments: ["unix:", "127.0.0.1:0"]) func answersWithContentsOrZeros(
    _ text: String
  ) throws {
    let memory = try Self.mixedMemory()
    let migration = try TestMigration(try memory.open(), over: text)
    try migration.beginServing()
    let blocks = memory.blockCount()
    for page in 0..<64 {
      try migration.urgent.request(page, sequence: UInt32(page + 7))
      let frame = try migration.urgent.receive()
      #expect(frame.header.type == (page % 4 >= 2 ? .zeroPages : .pages))
      #expect(frame.header.flags.contains(.demanded))
      #expect(frame.header.sequence == UInt32(page + 7))
      #expect(frame.header.run == PageRun(PageID(region: RegionIndex(0), page: PageIndex(page))))
      if page % 4 < 2 { #expect(frame.payload == TestMemory.content(page)) }
    }
    #expect(memory.blockCount() == blocks)
    // What was sent is counted behind it.
    migration.urgent.connection.shutdown()
    migration.plane.stop()
    let counters = migration.plane.counts()
    #expect(counters.requestCount == 64)
    #expect(counters.demandedDataPageCount == 32)
    #expect(counters.demandedZeroPageCount == 32)
    #expect(counters.serviceTimeBuckets.reduce(0, +) == 64)
    #expect(counters.urgentByteCount == 64 * 32 + 32 * 4096)
  }

  /// While the thread looks for requests, what has to be said is said in between, and its end is
  /// not put off.
  @Test func aThreadThatLooksForRequestsHearsAllElse() throws {
    let memory = try Self.mixedMemory()
    let migration = try TestMigration(
      try memory.open(), prefetch: nil, busyPollNanoseconds: 100_000_000, hostHasRoom: { true })
    try migration.beginServing()
    // Nobody looks before the push begins: what the session still has to do for it goes first.
    for page in 0..<64 {
      try migration.urgent.request(page, sequence: UInt32(page))
      #expect(try migration.urgent.receive().header.sequence == UInt32(page))
    }
    #expect(migration.plane.counts().metAwakeCount == 0)
    migration.plane.beginPush()
    var round: UInt64 = 0
    // As often as it takes until the window is long enough for this machine.
    while migration.plane.counts().metAwakeCount < 100 {
      for page in 0..<64 {
        try migration.urgent.request(page, sequence: UInt32(page))
        let frame = try migration.urgent.receive()
        #expect(frame.header.sequence == UInt32(page))
        if page % 4 < 2 { #expect(frame.payload == TestMemory.content(page)) }
      }
      #expect(migration.plane.send(.ping(sequence: round)))
      #expect(try migration.urgent.receiveControl() == .ping(sequence: round))
      try migration.urgent.send(.ping(sequence: round))
      #expect(try migration.urgent.receiveControl() == .pong(sequence: round))
      round += 1
    }
    #expect(migration.plane.counts().requestCount == 64 * (round + 1))
    migration.plane.cut()
    #expect(throws: ConnectionError.self) { _ = try migration.urgent.receive() }
  }

  @Test(arguments: [(0, true, false), (1_000_000_000, false, false), (1_000_000_000, true, true)])
  func nobodyLooksForRequestsWhereItIsOfNoUse(
    _ nanoseconds: UInt64, hasRoom: Bool, isPushing: Bool
  ) throws {
    let memory = try Self.mixedMemory()
    // One processor, as far as is known, and a thread that will push there.
    let migration = try TestMigration(
      try memory.open(), prefetch: isPushing ? .linear : nil, busyPollNanoseconds: nanoseconds,
      hostHasRoom: { hasRoom }, bulkProcessor: 0)
    try migration.beginServing()
    migration.plane.beginPush()
    // The thread that pushes is there once something of it has come.
    if isPushing { _ = try migration.bulk[0].receive() }
    for round in 0..<200 {
      try migration.urgent.request(round % 64, sequence: UInt32(round))
      #expect(try migration.urgent.receive().header.sequence == UInt32(round))
    }
    #expect(migration.plane.counts().metAwakeCount == 0)
  }

  @Test func processorsAreSharedAsFarAsThreadsMayMeetThere() {
    func count(urgent: Int?, bulk: Int?) -> Int {
      SourceOptions(
        prefetch: nil, bandwidth: BandwidthLimit(bytesPerSecond: nil), hasPayloadChecksums: true,
        heartbeatBudgetNanoseconds: 1_000_000_000, busyPollNanoseconds: 0, hostHasRoom: { true },
        urgentPlacement: ThreadPlacement(processor: urgent, isUrgent: true),
        bulkPlacement: ThreadPlacement(processor: bulk)
      ).processorCount
    }
    #expect(count(urgent: nil, bulk: nil) == HostProcessors.allowedCount())
    #expect(count(urgent: 1, bulk: nil) == HostProcessors.allowedCount())
    #expect(count(urgent: 1, bulk: 1) == 1)
    #expect(count(urgent: nil, bulk: 1) == 1)
    #expect(count(urgent: 1, bulk: 0) == Int.max)
  }

  @Test func aRunIsAnsweredInSegmentsOfOneKind() throws {
    let memory = try Self.mixedMemory()
    let migration = try TestMigration(try memory.open())
    try migration.beginServing()
    try migration.urgent.request(1, count: 16, sequence: 5)
    var arrivals = Arrivals(pageCount: 64)
    var frames = 0
    while arrivals.demanded.reduce(0, +) < 16 {
      let frame = try migration.urgent.receive()
      #expect(frame.header.sequence == 5)
      frames += 1
      try arrivals.book(frame, layout: migration.layout, expected: Self.expected)
    }
    #expect(arrivals.wrong == [])
    #expect(arrivals.demanded[1..<17].allSatisfy { $0 == 1 })
    // 1 | 2 3 | 4 5 | 6 7 | … | 14 15 | 16
    #expect(frames == 9)
  }

  @Test func aBatchOfRequestsIsAnsweredInOrder() throws {
    let memory = try Self.mixedMemory()
    let migration = try TestMigration(try memory.open())
    try migration.beginServing()
    var bytes: [UInt8] = []
    for page in 0..<64 {
      FrameHeader.request(
        PageRun(PageID(region: RegionIndex(0), page: PageIndex(63 - page))),
        session: testSession.shortID, sequence: UInt32(page)
      ).appendEncoded(to: &bytes)
    }
    // Cut in the middle of a header: a frame may come in any number of pieces.
    try migration.urgent.connection.send(Array(bytes[..<1001]))
    try migration.urgent.connection.send(Array(bytes[1001...]))
    for page in 0..<64 {
      let frame = try migration.urgent.receive()
      #expect(frame.header.sequence == UInt32(page))
      #expect(frame.header.run.start == PageIndex(63 - page))
    }
  }

  @Test(.enabled(if: hasHugePages, "needs huge pages, or root to reserve them"))
  func aHugePageIsAnsweredWhole() throws {
    let memory = try TestMemory(pageCount: 2, isHuge: true)
    try memory.fill([1])
    let migration = try TestMigration(try memory.open())
    try migration.beginServing()
    try migration.urgent.request(1, sequence: 1)
    #expect(try migration.urgent.receive().payload == memory.content(1))
    try migration.urgent.request(0, sequence: 2)
    #expect(try migration.urgent.receive().header.type == .zeroPages)
  }

  @Test func aProcessIsServed() throws {
    let memory = try OwnMemory(pageCount: 8)
    memory.fill([5])
    let migration = try TestMigration(try memory.source.open())
    try migration.beginServing()
    try migration.urgent.request(5, sequence: 1)
    #expect(try migration.urgent.receive().payload == TestMemory.content(5))
    try migration.urgent.request(4, sequence: 2)
    #expect(try migration.urgent.receive().header.type == .zeroPages)
    _ = memory.range
  }

  @Test func pingIsAnsweredAndControlPassedOnInOrder() throws {
    let migration = try TestMigration(try Self.mixedMemory().open())
    let epoch = Epoch(rawValue: 4)
    try migration.urgent.send(.ping(sequence: 77))
    #expect(try migration.urgent.receiveControl() == .pong(sequence: 77))
    let messages: [ControlMessage] = [
      .ready(epoch: epoch), .discarded(epoch: epoch), .prepared(epoch: epoch),
      .aborted(epoch: epoch, Refusal(.vmm, "no")),
    ]
    for message in messages { try migration.urgent.send(message) }
    for message in messages {
      guard case .received(let received) = try migration.notice() else {
        Issue.record("a control message is passed on")
        return
      }
      #expect(received == message)
    }
    #expect(migration.plane.send(.frozen(epoch: epoch, discardPageCount: .zero)))
    #expect(migration.plane.send(.go(epoch: epoch)))
    #expect(
      try migration.urgent.receiveControl() == .frozen(epoch: epoch, discardPageCount: .zero))
    #expect(try migration.urgent.receiveControl() == .go(epoch: epoch))
  }

  @Test func whatWasSaidLastArrivesBeforeTheEnd() throws {
    let migration = try TestMigration(try Self.mixedMemory().open())
    let epoch = Epoch(rawValue: 1)
    #expect(migration.plane.send(.completeAcknowledged(epoch: epoch)))
    // Unread bytes at the source's end would turn its close into a reset.
    try migration.urgent.send(.ping(sequence: 1))
    let plane = migration.plane
    let stopper = try WorkerThread(name: "stop") {
      plane.stop(telling: Refusal(.operatorRequest, "bye"))
    }
    var seen: [FrameType] = []
    let end = #expect(throws: ConnectionError.self) {
      while true { seen.append(try migration.urgent.receive().header.type) }
    }
    #expect(end?.kind == .closedByPeer)
    #expect(seen.filter { $0 != .pong } == [.completeAcknowledged, .refuse])
    migration.urgent.connection.shutdown()
    stopper.join()
    #expect(plane.events.take() == nil)
  }

  @Test func afterTheEndOfServingNothingIsAnswered() throws {
    let migration = try TestMigration(try Self.mixedMemory().open())
    try migration.beginServing()
    try migration.urgent.request(0, sequence: 1)
    _ = try migration.urgent.receive()
    migration.plane.endServing()
    try migration.urgent.request(1, sequence: 2)
    try migration.urgent.send(.ping(sequence: 9))
    #expect(try migration.urgent.receiveControl() == .pong(sequence: 9))
  }

  @Test func aShrinkingFileIsTold() throws {
    let memory = try Self.mixedMemory()
    let migration = try TestMigration(try memory.open())
    try migration.beginServing()
    try memory.descriptor.setByteCount(4096, operand: "test")
    try migration.urgent.request(40, sequence: 1)
    try migration.urgent.request(0, sequence: 2)
    guard case .memoryLost(.truncated(_, 4096)) = try migration.notice() else {
      Issue.record("the loss of memory is told")
      return
    }
    // Nothing is answered any more, least of all with zeros; the link lives on.
    try migration.urgent.send(.ping(sequence: 1))
    #expect(try migration.urgent.receiveControl() == .pong(sequence: 1))
    #expect(migration.plane.events.take() == nil)
  }

  @Test func aProcessThatEndsIsTold() throws {
    let process = try IdleProcess()
    let migration = try TestMigration(try process.source().open())
    try migration.beginServing()
    try migration.urgent.request(0, sequence: 1)
    _ = try migration.urgent.receive()
    process.end()
    try migration.urgent.request(1, sequence: 2)
    guard case .memoryLost(.processGone) = try migration.notice() else {
      Issue.record("the loss of memory is told")
      return
    }
  }
}
