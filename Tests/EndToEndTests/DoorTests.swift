import Glibc
import Pages
import ProgramHarness
import Session
import System
import Testing
import Uring
import Wire

/// Somebody who connects to a listening page-server without being postcopyd.
struct Visitor {
  let connection: Connection

  init(connection: Connection) { self.connection = connection }

  init(_ migration: Migration) throws {
    connection = try Connection.dial(
      Endpoint(parsing: migration.listenAddress), purpose: .urgent, until: Patience.deadline())
  }

  func say(_ bytes: [UInt8]) throws {
    // unsafe: the span is used up before the array goes.
    try unsafe connection.send(bytes.span.bytes, until: Patience.deadline())
  }

  /// Introduces itself, and gives the source's answer.
  func introduce(_ hello: Hello) throws(HandshakeError) -> Welcome {
    try Handshake.introduce(hello, on: connection)
  }

  /// The end of the stream comes, after no more than a refusal.
  func expectClosed() throws {
    var byteCount = 0
    var bytes = [UInt8](repeating: 0, count: 4096)
    while true {
      var span = bytes.mutableSpan
      // unsafe: any bytes may be stored in an array of bytes.
      var raw = unsafe span.mutableBytes
      do {
        byteCount += try connection.receive(into: &raw, until: Patience.deadline())
      } catch let error {
        #expect(error.kind == .closedByPeer || error.kind == .reset, "\(error)")
        break
      }
    }
    #expect(byteCount < 2048)
  }

  static func hello(
    _ migration: Migration, version: UInt16 = WireLimits.version, token: SessionToken? = nil,
    vmName: String = Migration.vmName, regions: [Region]
  ) throws -> Hello {
    Hello(
      version: version, role: .urgent, session: .none, epoch: Epoch(rawValue: 0),
      progress: .unknown,
      token: try token ?? TokenFile.read(migration.workspace.file("token")), vmName: vmName,
      regions: regions)
  }

  static func region(
    _ index: Int, offset: UInt64, byteCount: UInt64, pageSize: PageSize = .small
  ) -> Region {
    Region(
      index: RegionIndex(index), imageOffset: ByteCount(rawValue: offset),
      byteCount: ByteCount(rawValue: byteCount), pageSize: pageSize)
  }
}

extension EndToEnd {
  /// Whoever comes, the VM runs on, and the true destination is served as if nothing had been.
  @Suite("At the source's door")
  struct DoorTests {
    static let mebibyte: UInt64 = 1 << 20

    @Test(
      "a peer that is not ours is sent away", arguments: ["random", "http", "close", "silent"],
      [Plan.Link.unix, .loopback])
    func strangers(kind: String, link: Plan.Link) throws {
      let migration = try Migration(GuestShape(), Plan(link: link))
      let server = try migration.startServer()
      var silent: Visitor?
      switch kind {
      case "random":
        let visitor = try Visitor(migration)
        try visitor.say(RandomBytes.make(4096))
        try visitor.expectClosed()
        try server.waitFor("was sent away")
      case "http":
        let visitor = try Visitor(migration)
        try visitor.say(Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8))
        try visitor.expectClosed()
        try server.waitFor("was sent away")
      case "close":
        for _ in 0..<8 { try Visitor(migration).connection.shutdown() }
      default: silent = try Visitor(migration)
      }
      try migration.startReceiver()
      try migration.startDestination()
      try withExtendedLifetime(silent) { try migration.expectCompletion() }
    }

    @Test(
      "a memory that is not the source's is refused, and the right one still taken",
      arguments: [
        ("count", "regions"), ("size", "size"), ("offset", "offset"), ("page size", "page size"),
        ("overlap", "overlap"), ("unaligned", "page"),
      ])
    func layouts(what: String, word: String) throws {
      // Two ranges of a process: regions that somebody named.
      let migration = try Migration(GuestShape(memory: "32M", regions: 2), Plan(memory: .ranges))
      let server = try migration.startServer()
      let half = 16 * Self.mebibyte
      var regions = [
        Visitor.region(0, offset: 0, byteCount: half),
        Visitor.region(1, offset: half, byteCount: half),
      ]
      switch what {
      case "count": regions = [Visitor.region(0, offset: 0, byteCount: 2 * half)]
      case "size": regions[1] = Visitor.region(1, offset: half, byteCount: half - 4096)
      case "offset": regions[1] = Visitor.region(1, offset: half + 4096, byteCount: half)
      case "page size":
        regions[1] = Visitor.region(1, offset: half, byteCount: half, pageSize: .huge)
      case "overlap": regions[1] = Visitor.region(1, offset: half - 4096, byteCount: half)
      default: regions[1] = Visitor.region(1, offset: half, byteCount: half - 512)
      }
      let refusal = try refused(migration, Visitor.hello(migration, regions: regions))
      #expect(refusal.code == .layout && refusal.reason.contains(word), "\(refusal.reason)")
      try server.waitFor("was refused: \(refusal.reason)")
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }

    @Test("another version, another secret and another VM are refused, and the right ones taken")
    func identities() throws {
      let migration = try Migration()
      let server = try migration.startServer()
      let regions = [Visitor.region(0, offset: 0, byteCount: 16 * Self.mebibyte)]
      let version = try refused(
        migration, Visitor.hello(migration, version: WireLimits.version + 1, regions: regions))
      #expect(version.code == .version && version.reason.contains("version"))
      let secret = try #require(SessionToken(bytes: RandomBytes.make(32)))
      let token = try refused(migration, Visitor.hello(migration, token: secret, regions: regions))
      #expect(token.code == .token && token.reason.contains("token"))
      let name = try refused(
        migration, Visitor.hello(migration, vmName: "other", regions: regions))
      #expect(name.code == .vm && name.reason.contains("other"))
      try server.waitFor("was refused: \(name.reason)")
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }

    @Test("a second client is refused while the first is served")
    func secondClient() throws {
      let shape = GuestShape(memory: "64M", pattern: "rate-limited-write", more: ["--rate", "300"])
      let migration = try Migration(shape, Plan(prefetch: "none"))
      try migration.start()
      try migration.receiver?.waitFor(state: "running")
      let regions = [Visitor.region(0, offset: 0, byteCount: 64 * Self.mebibyte)]
      let refusal = try refused(migration, Visitor.hello(migration, regions: regions))
      #expect(refusal.code == .busy && refusal.reason.contains(Migration.vmName))
      // The first one still gets its pages.
      try migration.destination?.waitForProgress(operations: 200)
      try migration.expectParksOnSecondSignal(of: #require(migration.server), SIGTERM)
    }

    @Test("READY before the bulk connections is a violation; the next destination is served")
    func readyTooEarly() throws {
      let migration = try Migration(GuestShape(), Plan(mode: "quick"))
      let server = try migration.startServer()
      let regions = [Visitor.region(0, offset: 0, byteCount: 16 * Self.mebibyte)]
      let visitor = try Visitor(migration)
      let welcome = try visitor.introduce(Visitor.hello(migration, regions: regions))
      let ready = ControlMessage.ready(epoch: welcome.epoch)
      try visitor.say(ready.encodedFrame(session: welcome.session.shortID))
      try server.waitFor("ready before its bulk connections are there")
      try visitor.expectClosed()
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }

    @Test("a VM that nobody could stop is not sent: --vmm none goes with a snapshot alone")
    func noneNeedsASnapshot() throws {
      for memory in ["file:/dev/shm/some-vm", "pid:1"] {
        let server = try Program(
          "page-server",
          [
            Binaries.path("page-server"), "send", "--vm", "web", "--memory", memory, "--vmm",
            "none", "--listen", "unix:/nowhere", "--token-file", "/nowhere",
          ])
        #expect(try server.end() == .exited(code: 64))
      }
    }

    private func refused(_ migration: Migration, _ hello: Hello) throws -> Refusal {
      let visitor = try Visitor(migration)
      do {
        _ = try visitor.introduce(hello)
      } catch .refused(let refusal) {
        return refusal
      }
      throw HarnessError(description: "the source took the visitor in")
    }
  }
}
