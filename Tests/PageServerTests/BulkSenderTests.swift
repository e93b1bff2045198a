import Codec
import CLinux
import Foundation
import Pages
import Prefetch
import System
import Testing
import Uring
import Wire

@testable import PageServer

@Suite(.timeLimit(.minutes(5))) struct BulkSenderTests {
  /// Takes everything that comes on one bulk connection until the push is finished, granting
  /// `window` bytes beyond what has come.
  static func drain(
    _ peer: TestPeer, of migration: TestMigration, window: Int, into arrivals: Lock<Arrivals>,
    expected: (Int) -> [UInt8]
  ) throws {
    var received = 0
    var granted = window
    try peer.grant(total: granted)
    while true {
      let frame = try peer.receive()
      try arrivals.withLock { try $0.book(frame, layout: migration.layout, expected: expected) }
      if frame.header.type == .pushFinished { return }
      guard frame.header.type == .pages else { continue }
      received += frame.payload.count
      if received > granted {
        arrivals.withLock { $0.wrong.append("\(received) bytes came, \(granted) were granted") }
      }
      // Granted anew once half the window is used, as a destination does.
      if granted - received <= window / 2 {
        granted = received + window
        try peer.grant(total: granted)
      }
    }
  }

  /// Drains all bulk connections at once, each on a thread of its own.
  static func drainAll(
    _ migration: TestMigration, window: Int = 1 << 20,
    expected: @escaping @Sendable (Int) -> [UInt8]
  ) throws -> Lock<Arrivals> {
    let arrivals = Lock(Arrivals(pageCount: Int(migration.layout.totalPageCount.rawValue)))
    try inParallel(migration.bulk.count) { index in
      do {
        try drain(
          migration.bulk[index], of: migration, window: window, into: arrivals,
          expected: expected)
      } catch {
        arrivals.withLock { $0.wrong.append("connection \(index): \(error)") }
      }
    }
    return arrivals
  }

  static func inParallel(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) throws {
    guard count > 0 else { return }
    let thread = try WorkerThread(name: "test-\(count)") { body(count - 1) }
    let rest = Result { try inParallel(count - 1, body) }
    thread.join()
    try rest.get()
  }

  @Test(arguments: [1, 2, 4], PrefetchKind.allCases) func eachPageIsSentOnce(
    _ bulkCount: Int, _ prefetch: PrefetchKind
  ) throws {
    let memory = try UrgentServerTests.mixedMemory()
    let migration = try TestMigration(
      try memory.open(), bulkCount: bulkCount, prefetch: prefetch)
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration, expected: UrgentServerTests.expected)
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.finished == bulkCount)
      #expect(arrivals.areComplete)
    }
    guard case .pushFinished = try migration.notice() else {
      Issue.record("the end of the push is told")
      return
    }
    #expect(migration.plane.events.take() == nil)
    let counts = migration.plane.counts()
    #expect(counts.pushedDataPageCount == 32)
    #expect(counts.pushedZeroPageCount + counts.absentPageCount == 32)
    #expect(counts.absentPageCount <= 16)
    #expect(counts.settledPageCount == 64)
  }

  @Test(arguments: ["unix:", "127.0.0.1:0"], [4096, 3 * 4096, 65536])
  func neverMoreIsSentThanWasGranted(_ text: String, _ window: Int) throws {
    let memory = try TestMemory(pageCount: 512)
    try memory.fill(0..<512)
    let migration = try TestMigration(try memory.open(), over: text)
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration, window: window) { TestMemory.content($0) }
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.pushed.allSatisfy { $0 == 1 })
    }
    #expect(migration.plane.counts().creditWaitCount > 0)
  }

  @Test func withoutCreditOnlyWhatNeedsNoneIsSent() throws {
    let memory = try TestMemory(pageCount: 64)
    // Zeros that were written: no hole, found when they are read.
    for page in 0..<64 { try memory.write([UInt8](repeating: 0, count: 4096), page: page) }
    try memory.fill([63])
    let migration = try TestMigration(try memory.open(), prefetch: .linear)
    try migration.beginServing()
    migration.plane.beginPush()
    var zeros = 0
    while zeros < 63 {
      let frame = try migration.bulk[0].receive()
      #expect(frame.header.type == .zeroPages)
      zeros += Int(frame.header.run.count.rawValue)
    }
    try migration.bulk[0].grant(total: 4096)
    let last = try migration.bulk[0].receive()
    #expect(last.payload == TestMemory.content(63))
    #expect(try migration.bulk[0].receive().header.type == .pushFinished)
    // A smaller total is an old grant that was overtaken, no taking back.
    try migration.bulk[0].grant(total: 0)
    try migration.urgent.request(63, sequence: 1)
    #expect(try migration.urgent.receive().payload == TestMemory.content(63))
  }

  @Test(arguments: ["unix:", "127.0.0.1:0"]) func demandsAreAnsweredUnderASaturatedPush(
    _ text: String
  ) throws {
    let pageCount = 4096
    let memory = try TestMemory(pageCount: pageCount)
    try memory.fill(0..<pageCount)
    let migration = try TestMigration(try memory.open(), bulkCount: 2, over: text)
    try migration.beginServing()
    migration.plane.beginPush()
    let demands = Lock(Arrivals(pageCount: pageCount))
    // Pages all over the image, one outstanding at a time, as a vCPU asks.
    let order = (0..<1000).map { ($0 &* 2_654_435_761) % pageCount }
    let asker = try WorkerThread(name: "asker") {
      do {
        for (number, page) in order.enumerated() {
          try migration.urgent.request(page, sequence: UInt32(number))
          let frame = try migration.urgent.receive()
          if frame.header.sequence != UInt32(number) {
            demands.withLock { $0.wrong.append("sequence \(frame.header.sequence)") }
          }
          try demands.withLock {
            try $0.book(frame, layout: migration.layout) { TestMemory.content($0) }
          }
        }
      } catch {
        demands.withLock { $0.wrong.append("\(error)") }
      }
    }
    let arrivals = try Self.drainAll(migration) { TestMemory.content($0) }
    asker.join()
    let demanded = demands.withLock { $0 }
    arrivals.withLock { arrivals in
      #expect(demanded.wrong == [])
      #expect(arrivals.wrong == [])
      #expect(demanded.demanded.reduce(0, +) == order.count)
      for page in 0..<pageCount {
        #expect(arrivals.pushed[page] <= 1)
        #expect(arrivals.pushed[page] + demanded.demanded[page] >= 1)
      }
    }
    // What was sent is counted behind it.
    migration.urgent.connection.shutdown()
    migration.plane.stop()
    #expect(migration.plane.counts().requestCount == UInt64(order.count))
  }

  @Test func aCapHoldsThePushDownAndNoDemand() throws {
    let memory = try TestMemory(pageCount: 512)
    try memory.fill(0..<512)
    // A page a second, behind a burst of sixteen.
    let migration = try TestMigration(
      try memory.open(), bulkCount: 2, prefetch: .linear, bulkBytesPerSecond: 4096)
    try migration.beginServing()
    for bulk in migration.bulk { try bulk.grant(total: 1 << 30) }
    migration.plane.beginPush()
    for page in 0..<512 {
      try migration.urgent.request(page, sequence: UInt32(page))
      #expect(try migration.urgent.receive().payload == TestMemory.content(page))
    }
    // The burst of each connection, and a page for every second that this has taken.
    #expect(migration.plane.counts().pushedDataPageCount < 100)
  }

  /// Nothing goes for years under the first cap; whoever waits under it is woken.
  @Test(arguments: [nil, 20 << 20] as [UInt64?])
  func aCapThatIsLiftedOrRaisedHoldsNobodyAnyMore(bytesPerSecond: UInt64?) throws {
    let memory = try TestMemory(pageCount: 512)
    try memory.fill(0..<512)
    let bandwidth = BandwidthLimit(bytesPerSecond: 1)
    let migration = try TestMigration(try memory.open(), bulkCount: 2, bandwidth: bandwidth)
    try migration.beginServing()
    migration.plane.beginPush()
    // Both wait: a page of a debt of hours is on its way, or about to be.
    bandwidth.set(bytesPerSecond: bytesPerSecond)
    migration.plane.bandwidthChanged()
    let arrivals = try Self.drainAll(migration) { TestMemory.content($0) }
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.areComplete)
    }
  }

  @Test func aCapLetsEverythingThroughInTheEnd() throws {
    let memory = try TestMemory(pageCount: 512)
    try memory.fill(0..<512)
    let migration = try TestMigration(
      try memory.open(), bulkCount: 2, bulkBytesPerSecond: 20 << 20)
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration) { TestMemory.content($0) }
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.areComplete)
    }
  }

  @Test func whatWasDemandedIsNotPushed() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let migration = try TestMigration(try memory.open())
    try migration.beginServing()
    for page in stride(from: 0, to: 64, by: 2) {
      try migration.urgent.request(page, sequence: 0)
      _ = try migration.urgent.receive()
    }
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration) { TestMemory.content($0) }
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.pushed == (0..<64).map { $0 % 2 })
    }
    // A page that was pushed is answered all the same: the push may be lost on its way.
    try migration.urgent.request(1, sequence: 9)
    #expect(try migration.urgent.receive().payload == TestMemory.content(1))
  }

  @Test(arguments: [0, 1, 65_536, 65_537, 300_000]) func deviceStateWaitsForNothingOnceItIsReady(
    _ byteCount: Int
  ) throws {
    let memory = try UrgentServerTests.mixedMemory()
    let migration = try TestMigration(try memory.open())
    let state = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    try migration.bulk[0].grant(total: 1 << 20)
    migration.plane.sendDeviceState(state)
    migration.plane.beginPush()
    try migration.beginServing()
    var received: [UInt8] = []
    while true {
      let frame = try migration.bulk[0].receive()
      try #require(frame.header.type == .deviceState)
      received += frame.payload
      if frame.header.flags.contains(.last) { break }
      #expect(frame.payload.count == 65_536)
    }
    #expect(received == state)
    #expect(try migration.bulk[0].receive().header.type == .zeroMap)
    while try migration.bulk[0].receive().header.type != .pushFinished {}
  }

  @Test func nothingIsPushedWithoutAPolicyButTheMapIsTold() throws {
    let memory = try UrgentServerTests.mixedMemory()
    let migration = try TestMigration(try memory.open(), prefetch: nil)
    try migration.beginServing()
    migration.plane.beginPush()
    var runCount = 0
    while runCount < 16 {
      let map = try migration.bulk[0].receive()
      try #require(map.header.type == .zeroMap)
      runCount += try RunMap.zero.runCount(in: map.payload.rawBytes)
    }
    // What the thread does next, if it did anything, would come before device state.
    migration.plane.sendDeviceState([1])
    #expect(try migration.bulk[0].receive().header.type == .deviceState)
  }

  @Test func severalRegionsAndManyHolesAreMapped() throws {
    // More holes than one frame of the map takes, in two regions that do not touch.
    let pageCount = 20_000
    let memory = try TestMemory(pageCount: pageCount)
    try memory.fill(stride(from: 0, to: pageCount, by: 2))
    func region(_ first: Int, _ count: Int) -> Region {
      Region(
        index: RegionIndex(0), imageOffset: ByteCount(first * 4096),
        byteCount: ByteCount(count * 4096), pageSize: .small)
    }
    let layout = try ImageLayout([region(10_000, 10_000), region(0, 9_001)])
    let expected: @Sendable (Int) -> [UInt8] = { index in
      let page = index < 10_000 ? 10_000 + index : index - 10_000
      return page % 2 == 0 ? TestMemory.content(page) : [UInt8](repeating: 0, count: 4096)
    }
    let migration = try TestMigration(try memory.open(), layout: layout)
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration, expected: expected)
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.areComplete)
      #expect(arrivals.mapped.reduce(0, +) > 4096)
    }
  }

  @Test(.enabled(if: hasHugePages, "needs huge pages, or root to reserve them"))
  func hugePagesArePushedWhole() throws {
    let memory = try TestMemory(pageCount: 3, isHuge: true)
    try memory.fill([0, 2])
    let contents = (0..<3).map { page in
      page == 1 ? [UInt8](repeating: 0, count: 2 << 20) : memory.content(page)
    }
    let migration = try TestMigration(try memory.open(), prefetch: .linear)
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration, window: 2 << 20) { contents[$0] }
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.pushed == [1, 1, 1])
    }
  }

  @Test func aProcessIsPushedAndItsAbsentPagesMapped() throws {
    let memory = try OwnMemory(pageCount: 256)
    memory.fill(stride(from: 0, to: 256, by: 3))
    let migration = try TestMigration(try memory.source.open())
    try migration.beginServing()
    migration.plane.beginPush()
    let arrivals = try Self.drainAll(migration) { page in
      page % 3 == 0 ? TestMemory.content(page) : [UInt8](repeating: 0, count: 4096)
    }
    arrivals.withLock { arrivals in
      #expect(arrivals.wrong == [])
      #expect(arrivals.areComplete)
    }
    _ = memory.range
  }

  @Test func aFileThatShrinksDuringThePushIsTold() throws {
    let memory = try TestMemory(pageCount: 256)
    try memory.fill(0..<256)
    let migration = try TestMigration(try memory.open(), prefetch: .linear)
    try migration.beginServing()
    try migration.bulk[0].grant(total: 65536)
    migration.plane.beginPush()
    #expect(try migration.bulk[0].receive().payload.count == 65536)
    try memory.descriptor.setByteCount(20 * 4096, operand: "test")
    try migration.bulk[0].grant(total: 1 << 30)
    guard case .memoryLost(.truncated(_, 81920)) = try migration.notice() else {
      Issue.record("the loss of memory is told")
      return
    }
    migration.plane.stop()
    // What came before is sound, and no frame says that all was pushed.
    let end = #expect(throws: ConnectionError.self) {
      while true {
        let frame = try migration.bulk[0].receive()
        #expect(frame.header.type == .pages)
        for (position, index) in migration.layout.flatRange(of: frame.header.run).enumerated() {
          #expect(
            Array(frame.payload[position * 4096..<(position + 1) * 4096])
              == TestMemory.content(index))
        }
      }
    }
    #expect(end?.kind == .closedByPeer || end?.kind == .reset)
  }
}
