import Codec
import Pages
import System
import Testing
import Uring
import Wire

@testable import PageServer

/// What a destination must not do, and what happens when it goes.
@Suite(.timeLimit(.minutes(5))) struct BadPeerTests {
  func migration(bulkCount: Int = 1) throws -> TestMigration {
    try TestMigration(try UrgentServerTests.mixedMemory().open(), bulkCount: bulkCount)
  }

  func lostLink(_ migration: TestMigration) throws -> (ConnectionRole, LinkFailure) {
    guard case .linkLost(let role, let failure) = try migration.notice() else {
      throw TestTimeout()
    }
    return (role, failure)
  }

  static func frame(
    _ type: FrameType, flags: FrameFlags = [], session: UInt32 = testSession.shortID,
    run: PageRun = PageRun(region: RegionIndex(0), start: PageIndex(0), count: .zero)
  ) -> [UInt8] {
    var bytes: [UInt8] = []
    FrameHeader(type: type, flags: flags, session: session, run: run).appendEncoded(to: &bytes)
    return bytes
  }

  static func run(_ region: Int, _ start: Int, _ count: Int) -> PageRun {
    PageRun(region: RegionIndex(region), start: PageIndex(start), count: PageCount(count))
  }

  @Test func aRequestBeforeServingIsAViolation() throws {
    let migration = try migration()
    try migration.urgent.request(0, sequence: 1)
    let (role, failure) = try lostLink(migration)
    #expect(role == .urgent)
    guard case .violation(.misplaced(.request, from: .destination, on: .urgent)) = failure else {
      Issue.record("\(failure)")
      return
    }
  }

  static let violations: [(String, [UInt8])] = [
    ("region", frame(.request, run: run(1, 0, 1))),
    ("page", frame(.request, run: run(0, 64, 1))),
    ("run over the end", frame(.request, run: run(0, 60, 5))),
    ("too long a run", frame(.request, run: run(0, 0, 17))),
    ("far page", frame(.request, run: run(0, Int(UInt32.max), 1))),
    ("no pages", frame(.request, run: run(0, 0, 0))),
    ("other session", frame(.request, session: 1, run: run(0, 0, 1))),
    ("pages from the destination", frame(.zeroPages, run: run(0, 0, 1))),
    ("bulk frame", Credit.encodedFrame(total: ByteCount(1), session: testSession.shortID)),
    (
      "source's message",
      ControlMessage.go(epoch: Epoch(rawValue: 1)).encodedFrame(session: testSession.shortID)
    ),
    ("zeros", [UInt8](repeating: 0, count: 32)),
    ("ones", [UInt8](repeating: 0xFF, count: 64)),
    ("HTTP", Array("GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".utf8)),
    (
      "bad payload checksum",
      {
        var bytes = ControlMessage.ready(epoch: Epoch(rawValue: 1))
          .encodedFrame(session: testSession.shortID)
        bytes[33] ^= 1
        return bytes
      }()
    ),
  ]

  @Test(arguments: violations) func aBrokenFrameEndsTheUrgentLink(
    _ name: String, _ bytes: [UInt8]
  ) throws {
    let migration = try migration()
    try migration.beginServing()
    try migration.urgent.connection.send(bytes)
    let (role, failure) = try lostLink(migration)
    #expect(role == .urgent)
    guard case .violation = failure else {
      Issue.record("\(failure)")
      return
    }
    // The source still stands: bulk goes on.
    try migration.bulk[0].grant(total: 1 << 20)
    migration.plane.beginPush()
    while try migration.bulk[0].receive().header.type != .pushFinished {}
    // And the peer is still told why.
    let plane = migration.plane
    let stopper = try WorkerThread(name: "stop") { plane.stop(telling: failure.refusal) }
    #expect(try migration.urgent.receive().header.type == .refuse)
    migration.urgent.connection.shutdown()
    stopper.join()
  }

  @Test(arguments: violations.filter { $0.0 != "bulk frame" && $0.0 != "bad payload checksum" })
  func aBrokenFrameEndsTheBulkLink(_ name: String, _ bytes: [UInt8]) throws {
    let migration = try migration()
    try migration.bulk[0].connection.send(bytes)
    let (role, failure) = try lostLink(migration)
    #expect(role == .bulk)
    guard case .violation = failure else {
      Issue.record("\(failure)")
      return
    }
    try migration.beginServing()
    try migration.urgent.request(0, sequence: 1)
    #expect(try migration.urgent.receive().payload == TestMemory.content(0))
  }

  @Test func arbitraryBytesEndTheLinkAndNothingElse() throws {
    for seed in UInt64(1)...20 {
      var state = seed
      let bytes = (0..<200).map { _ -> UInt8 in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt8(truncatingIfNeeded: state >> 33)
      }
      let migration = try migration()
      try migration.beginServing()
      try migration.urgent.connection.send(bytes)
      guard case .violation = try lostLink(migration).1 else {
        Issue.record("seed \(seed)")
        continue
      }
    }
  }

  @Test func aRefusalIsPassedOn() throws {
    let migration = try migration()
    let refusal = Refusal(.unfit, "no memory here")
    for peer in [migration.urgent, migration.bulk[0]] {
      try peer.connection.send(refusal.encodedFrame(session: testSession.shortID))
      guard case .refused(refusal) = try lostLink(migration).1 else {
        Issue.record("a refusal is passed on")
        return
      }
    }
  }

  @Test func aFloodOfControlMessagesEndsTheLink() throws {
    let migration = try migration()
    let frame = ControlMessage.complete(epoch: Epoch(rawValue: 1)).encodedFrame(
      session: testSession.shortID)
    var bytes: [UInt8] = []
    for _ in 0..<SourceContext.noticeCapacity { bytes += frame }
    try migration.urgent.connection.send(bytes)
    // Nobody takes notices out until the link is lost: then that one is there all the same.
    var notices: [SourceNotice] = []
    while true {
      notices.append(try migration.notice())
      if case .linkLost(.urgent, .flooded) = notices.last { break }
      // Taking them out too early makes room for all of them.
      if notices.count == SourceContext.noticeCapacity {
        try migration.urgent.connection.send(bytes)
        notices = []
      }
    }
  }

  enum Stage: CaseIterable {
    case attached, serving, insideFrame, pushing, waitingForCredit, finished
  }

  @Test(arguments: Stage.allCases) func aPeerThatGoesIsToldOnceForEachLink(
    _ stage: Stage
  ) throws {
    let migration = try migration(bulkCount: 2)
    if stage != .attached { try migration.beginServing() }
    switch stage {
    case .attached, .serving: break
    case .insideFrame:
      try migration.urgent.connection.send(
        Array(Self.frame(.request, run: Self.run(0, 0, 1))[..<20]))
    case .pushing:
      try migration.bulk[0].grant(total: 4096)
      migration.plane.beginPush()
    case .waitingForCredit:
      migration.plane.beginPush()
    case .finished:
      for peer in migration.bulk { try peer.grant(total: 1 << 20) }
      migration.plane.beginPush()
      for peer in migration.bulk { while try peer.receive().header.type != .pushFinished {} }
      guard case .pushFinished = try migration.notice() else {
        Issue.record("the end of the push is told")
        return
      }
    }
    for peer in [migration.urgent] + migration.bulk { peer.connection.shutdown() }
    var roles: [ConnectionRole] = []
    for _ in 0..<3 {
      let (role, failure) = try lostLink(migration)
      guard case .connection(let error) = failure else {
        Issue.record("\(failure)")
        continue
      }
      #expect(error.kind == .closedByPeer || error.kind == .reset)
      roles.append(role)
    }
    #expect(roles.filter { $0 == .urgent }.count == 1)
    migration.plane.stop()
    #expect(migration.plane.events.take() == nil)
  }

  @Test func stoppingEndsWhateverTheThreadsWaitFor() throws {
    // The destination reads nothing at all: urgent and bulk are stuck in full sockets.
    let memory = try TestMemory(pageCount: 4096)
    try memory.fill(0..<4096)
    let migration = try TestMigration(try memory.open())
    try migration.beginServing()
    try migration.bulk[0].grant(total: 1 << 30)
    migration.plane.beginPush()
    let requests = Self.frame(.request, run: Self.run(0, 0, 16))
    while try migration.urgent.connection.trySend(requests.rawBytes) == requests.count {}
    migration.plane.stop()
  }
}
