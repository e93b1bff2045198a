import Codec
import Migration
import Pages
import Session
import System
import Testing
import Uring
import VMM
import Wire

@testable import FaultHandler

/// A source at its door, played: it does with each connection in turn what the script says, with
/// all that come later the last.
private final class PlayedDoor {
  enum Answer: Sendable {
    /// The hello is heard, and the welcome lost.
    case nothing
    case refuse(Refusal)
    case welcome
  }

  static let regions = [
    Region(
      index: RegionIndex(0), imageOffset: ByteCount(0), byteCount: ByteCount(8192),
      pageSize: .small)
  ]

  let hellos: Lock<[ConnectionRole]>
  private let stopping: Lock<Bool>
  private var thread: WorkerThread?

  init(_ path: String, _ script: [Answer]) throws {
    let listener = try Listener(.unix(path: path))
    let hellos = Lock<[ConnectionRole]>([])
    let stopping = Lock(false)
    self.hellos = hellos
    self.stopping = stopping
    thread = try WorkerThread(name: "door") {
      var taken: [Connection] = []
      var position = 0
      while !stopping.withLock({ $0 }) {
        do {
          let soon = MonotonicClock.now().advanced(byNanoseconds: 20_000_000)
          guard let connection = try? listener.accept(until: soon) else { continue }
          let next = script[min(position, script.count - 1)]
          position += 1
          let hello = try Self.read(connection)
          hellos.withLock { $0.append(hello.role) }
          if try Self.answer(connection, next) { taken.append(connection) }
        } catch {
          Issue.record("the door met \(error)")
        }
      }
    }
  }

  func close() {
    stopping.withLock { $0 = true }
    thread.take()?.join()
  }

  /// Whether the connection stays open.
  private static func answer(_ connection: Connection, _ answer: Answer) throws -> Bool {
    switch answer {
    case .nothing: return false
    case .refuse(let refusal):
      try connection.send(refusal.encodedFrame(session: 0).rawBytes)
      return false
    case .welcome:
      let welcome = Welcome(
        session: ScriptedSource.session, epoch: Epoch(rawValue: 0), mode: .postCopy,
        bulkConnectionCount: 1, isHandedOff: false, regions: regions)
      try connection.send(welcome.encodedFrame().rawBytes)
      return true
    }
  }

  private static func read(_ connection: Connection) throws -> Hello {
    var first = SingleFrame(from: .destination)
    while true {
      switch try first.next() {
      case .complete(_, let payload): return try Hello(decoding: payload.rawBytes)
      case .needsBytes(let count):
        _ = try connection.waitReadable()
        _ = try first.receiveAvailable(from: connection, atMost: count)
      }
    }
  }
}

/// Getting into a session the first time.
@Suite(.serialized, .timeLimit(.minutes(5)))
struct DiallerTests {
  private static let busy = Refusal(.busy, "the session of VM \"web\" has a destination already")

  /// What comes of dialling a source that behaves so, and the hellos that it heard.
  private func dial(
    _ script: [PlayedDoor.Answer], _ plan: DialPlan = .first,
    connectNanoseconds: UInt64 = 60_000_000_000
  ) throws -> (DestinationSession.DialResult, [ConnectionRole]) {
    let directory = try TemporaryDirectory()
    // The fixture removes a file of that name.
    let path = directory.file("attach.sock")
    let door = try PlayedDoor(path, script)
    defer { door.close() }
    let result = try dialler([path], plan, connectNanoseconds: connectNanoseconds).run()
    return (result, door.hellos.withLock { $0 })
  }

  private func dialler(
    _ paths: [String], _ plan: DialPlan, connectNanoseconds: UInt64 = 60_000_000_000
  ) throws -> SourceDialler {
    var configuration = DestinationConfiguration(
      vmName: try VMName("web"), attachPath: "", frontEnd: ScriptedFrontEnd(.paused),
      sources: paths.map { .unix(path: $0) }, security: .insecure,
      token: try #require(SessionToken(bytes: [UInt8](repeating: 3, count: 32))),
      directory: StateDirectory(statePath: "/nowhere", runPath: "/nowhere"))
    configuration.heartbeatBudgetNanoseconds = LinkMonitor.minimumBudgetNanoseconds
    configuration.connectNanoseconds = connectNanoseconds
    return SourceDialler(
      configuration: configuration, plan: plan, number: 1, regions: PlayedDoor.regions,
      session: .none, epoch: Epoch(rawValue: 0), progress: .unknown, cancel: try WakeEvent(),
      inputs: try Mailbox(capacity: 64))
  }

  @Test func aPlaceThatOurOwnLostHelloHoldsIsWaitedFor() throws {
    let (result, hellos) = try dial(
      [.nothing, .refuse(Self.busy), .refuse(Self.busy), .welcome])
    guard case .linked(let links) = result else {
      Issue.record("it was not let in: \(result)")
      return
    }
    #expect(links.bulk.count == 1)
    #expect(hellos == [.urgent, .urgent, .urgent, .urgent, .bulk])
  }

  @Test func anUrgentConnectionThatIsLostBehindItsWelcomeIsMadeAgain() throws {
    let lost = Refusal(.session, "a bulk connection names a session that has no urgent connection")
    let (result, hellos) = try dial([.welcome, .refuse(lost), .welcome, .welcome])
    guard case .linked = result else {
      Issue.record("it was not let in: \(result)")
      return
    }
    #expect(hellos == [.urgent, .bulk, .urgent, .bulk])
  }

  @Test(arguments: [
    PlayedDoor.Answer.nothing, .refuse(Refusal(.session, "the link is lost already")),
    .refuse(Refusal(.busy, "all bulk connections are there")),
  ])
  fileprivate func aLinkWithoutItsBulkConnectionIsGivenBack(answer: PlayedDoor.Answer) throws {
    let again = DialPlan.again(
      lost: MonotonicClock.now(), roundTripNanoseconds: nil, rests: false)
    let (result, hellos) = try dial([.nothing, .welcome, answer, .welcome], again)
    // The session has the urgent connection by now: not another one beside it.
    guard case .bulkLost(_, let reason) = result else {
      Issue.record("it went on: \(result)")
      return
    }
    #expect(hellos == [.urgent, .urgent, .bulk])
    #expect(reason.code == .timeout && reason.reason.contains("bulk connection"))
  }

  @Test func anAddressThatTakesNoBulkConnectionHasItsTurnLast() throws {
    let directory = try TemporaryDirectory()
    // The fixture removes files of these names.
    let paths = ["attach.sock", "states"].map { directory.file($0) }
    let first = try PlayedDoor(paths[0], [.welcome])
    defer { first.close() }
    let second = try PlayedDoor(paths[1], [.welcome])
    defer { second.close() }
    let again = DialPlan.again(
      lost: MonotonicClock.now(), roundTripNanoseconds: nil, rests: false,
      useless: .unix(path: paths[0]))
    guard case .bulkLinked = try dialler(paths, again).run() else {
      Issue.record("it was not let in")
      return
    }
    #expect(first.hellos.withLock { $0 } == [])
    #expect(second.hellos.withLock { $0 } == [.urgent, .bulk])
  }

  @Test func anotherDestinationsPlaceIsNotWaitedFor() throws {
    let (result, hellos) = try dial([.refuse(Self.busy)])
    guard case .ended(Self.busy) = result else {
      Issue.record("it went on: \(result)")
      return
    }
    #expect(hellos == [.urgent])
  }

  @Test func aPlaceThatStaysTakenEndsTheWait() throws {
    let (result, hellos) = try dial(
      [.nothing, .refuse(Self.busy)], connectNanoseconds: 1_000_000_000)
    guard case .ended(Self.busy) = result else {
      Issue.record("it went on: \(result)")
      return
    }
    #expect(hellos.count > 2)
  }

  @Test func anyOtherRefusalIsFinal() throws {
    let token = Refusal(.token, "the token is not this session's")
    let (result, hellos) = try dial([.nothing, .refuse(token)])
    guard case .ended(token) = result else {
      Issue.record("it went on: \(result)")
      return
    }
    #expect(hellos.count == 2)
  }

  @Test func patienceBeginsWithALostHelloAndLastsAsLongAsASetUp() {
    var patience = BusyPatience(heartbeatBudgetNanoseconds: 1_000_000_000)
    #expect(!patience.covers(Instant(nanoseconds: 5)))
    patience.helloLost(at: Instant(nanoseconds: 10))
    #expect(patience.covers(Instant(nanoseconds: LinkMonitor.setupNanoseconds + 10)))
    #expect(!patience.covers(Instant(nanoseconds: LinkMonitor.setupNanoseconds + 500_000_010)))
    patience.helloLost(at: Instant(nanoseconds: 20_000_000_000))
    #expect(patience.covers(Instant(nanoseconds: 20_000_000_001)))
  }
}
