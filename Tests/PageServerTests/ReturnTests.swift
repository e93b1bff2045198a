import Codec
import Migration
import Pages
import System
import Testing
import Uring
import Wire

@testable import PageServer

/// A destination that comes back tells what it holds, and is sent the rest.
@Suite(.serialized, .timeLimit(.minutes(5)))
struct ReturnTests {
  private static let pageCount = 256

  private static func memory() throws -> TestMemory {
    let memory = try TestMemory(pageCount: pageCount)
    try memory.fill(0..<pageCount)
    return memory
  }

  @Test func onlyWhatIsNotThereIsPushed() throws {
    let migration = try TestMigration(try Self.memory().open(), bulkCount: 2, isReturn: true)
    try migration.beginServing()
    migration.plane.beginPush()
    for peer in migration.bulk { try peer.grant(total: 1 << 30) }
    let resident = [3..<40, 77..<78, 200..<256]
    try migration.bulk[0].tellResidency(resident, of: Self.pageCount)
    var pushed = Set<Int>()
    for peer in migration.bulk {
      while true {
        let frame = try peer.receive()
        if frame.header.type == .pushFinished { break }
        if frame.header.type == .zeroMap { continue }
        #expect(frame.header.type == .pages)
        let pages = migration.layout.flatRange(of: frame.header.run)
        #expect(pushed.isDisjoint(with: pages))
        pushed.formUnion(pages)
      }
    }
    #expect(pushed == Set(0..<Self.pageCount).subtracting(resident.flatMap { Array($0) }))
  }

  @Test func nothingIsPushedBeforeTheWholeMapCame() throws {
    let migration = try TestMigration(try Self.memory().open(), isReturn: true)
    try migration.beginServing()
    migration.plane.beginPush()
    try migration.bulk[0].grant(total: 1 << 30)
    try migration.bulk[0].tellResidency([0..<8], of: Self.pageCount, isCut: true)
    // A demand is answered meanwhile, also for a page that counts as resident.
    try migration.urgent.request(2, sequence: 9)
    #expect(try migration.urgent.receive().header.sequence == 9)
    #expect(migration.plane.counts().pushedDataPageCount == 0)
    migration.bulk[0].connection.shutdown()
    guard case .linkLost(.bulk, _) = try migration.notice() else {
      Issue.record("the end of the link was not told")
      return
    }
    #expect(migration.plane.counts().pushedDataPageCount == 0)
  }

  @Test func aMapThatNobodyAskedForBreaksTheLink() throws {
    let migration = try TestMigration(try Self.memory().open())
    try migration.beginServing()
    // One frame: the source closes as soon as it has read it.
    var encoder = ResidentMap.Encoder(session: testSession.shortID)
    encoder.append(pageCount: Self.pageCount, isResident: false)
    try migration.bulk[0].connection.send(encoder.takeFrame(isLast: true))
    guard
      case .linkLost(.bulk, .violation(.misplaced(.residentMap, _, _))) =
        try migration.notice()
    else {
      Issue.record("it was taken")
      return
    }
  }

  @Test func aDestinationThatSaysNothingIsGivenUp() throws {
    let migration = try TestMigration(
      try Self.memory().open(),
      heartbeatBudgetNanoseconds: LinkMonitor.minimumBudgetNanoseconds)
    guard case .linkLost(.urgent, .silent) = try migration.notice() else {
      Issue.record("another notice came")
      return
    }
    // It had been asked whether it lives.
    guard case .ping = try migration.urgent.receiveControl() else {
      Issue.record("it was not asked")
      return
    }
  }

  /// Whoever comes again because its link was ended must not be taken for the reason of that.
  @Test func theEndOfALinkIsToldBeforeThePeerSeesIt() throws {
    for _ in 0..<20 {
      let migration = try TestMigration(
        try Self.memory().open(),
        heartbeatBudgetNanoseconds: LinkMonitor.minimumBudgetNanoseconds)
      // Behind the first word the budget counts.
      try migration.urgent.send(.ping(sequence: 1))
      #expect(throws: ConnectionError.self) {
        while true { _ = try migration.urgent.receive() }
      }
      guard case .linkLost(.urgent, .silent)? = migration.plane.events.take() else {
        Issue.record("the peer has seen it first")
        return
      }
    }
  }

  @Test func aLinkThatIsCutEndsAtOnce() throws {
    let migration = try TestMigration(try Self.memory().open(), bulkCount: 2)
    try migration.beginServing()
    migration.plane.beginPush()
    migration.plane.cut()
    #expect(throws: ConnectionError.self) {
      while true { _ = try migration.urgent.receive() }
    }
    migration.plane.cut()
  }

  @Test(arguments: [ConnectionRole.urgent, .bulk]) func whoBreaksTheProtocolIsToldSo(
    role: ConnectionRole
  ) throws {
    let migration = try TestMigration(try Self.memory().open())
    let bad = role == .urgent ? migration.urgent : migration.bulk[0]
    // A word of the source's.
    try bad.connection.send(
      ControlMessage.go(epoch: Epoch(rawValue: 1)).encodedFrame(session: testSession.shortID))
    guard case .linkLost(role, let failure) = try migration.notice() else {
      Issue.record("it was taken")
      return
    }
    #expect(failure.isPeersFault)
    migration.plane.cut(telling: failure.refusal)
    let frame = try migration.urgent.receive()
    #expect(frame.header.type == .refuse)
    #expect(try Refusal(decoding: frame.payload.rawBytes) == failure.refusal)
    #expect(throws: ConnectionError.self) { _ = try migration.urgent.receive() }
  }

  @Test func whatWasSaidLastIsHeardThoughAnotherConnectionEndedFirst() throws {
    let migration = try TestMigration(try Self.memory().open())
    try migration.beginServing()
    let epoch = Epoch(rawValue: 4)
    let reason = Refusal(.operatorRequest, "parked")
    // The thread is behind, as on a busy host: the end of bulk is told first.
    let messages = (0..<32).map { _ in ControlMessage.complete(epoch: epoch) }
    migration.bulk[0].connection.shutdown()
    guard case .linkLost(.bulk, _) = try migration.notice() else {
      Issue.record("the end of the link was not told")
      return
    }
    for message in messages { try migration.urgent.send(message) }
    try migration.urgent.send(.parked(epoch: epoch, reason))
    migration.urgent.connection.endSending()
    migration.plane.cut()
    var heard: [ControlMessage] = []
    while let notice = migration.plane.events.take() {
      if case .received(let message) = notice { heard.append(message) }
    }
    #expect(heard == messages + [.parked(epoch: epoch, reason)])
  }

  @Test func cuttingALinkThatIsJustEndingReturns() throws {
    // The order to cut and the end of the stream meet at the thread in either order.
    for _ in 0..<64 {
      let migration = try TestMigration(try Self.memory().open())
      try migration.beginServing()
      migration.urgent.connection.shutdown()
      migration.plane.cut()
    }
  }
}
