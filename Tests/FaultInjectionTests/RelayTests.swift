import Glibc
import LinkFaultKit
import Pages
import ProgramHarness
import System
import Testing
import Uring

/// The relay itself: a fault that does not happen would make every case pass.
@Suite("The relay of the tests", .serialized)
struct RelayTests {
  /// A client and a server with a relay between them.
  private final class Ends {
    let workspace: Workspace
    let listener: Listener
    let relay: RelayProcess
    let dialAddress: Endpoint

    init(isTCP: Bool = true, options: [String] = []) throws {
      workspace = try Workspace()
      listener = try Listener(
        isTCP ? .internet(host: "127.0.0.1", port: 0) : .unix(path: workspace.file("to.sock")))
      let from =
        isTCP ? Endpoint.internet(host: "127.0.0.1", port: 0) : .unix(path: workspace.file("from"))
      relay = try RelayProcess(
        listen: "\(from)", connect: "\(listener.endpoint)", in: workspace, options: options)
      dialAddress = try Endpoint(parsing: relay.waitFor("listening").text ?? "")
    }

    func dial() throws -> Connection {
      try Connection.dial(dialAddress, purpose: .urgent, until: Patience.deadline())
    }

    /// A client, and the server's end of its link.
    func connect() throws -> (client: Connection, server: Connection) {
      (try dial(), try listener.accept(until: Patience.deadline()))
    }
  }

  private func say(_ text: String, on connection: Connection) throws {
    try Self.send(Array(text.utf8), on: connection)
  }

  private static func send(_ bytes: [UInt8], on connection: Connection) throws {
    // unsafe: the bytes of an array of bytes may be read as such; the array lives during the call.
    try unsafe connection.send(bytes.span.bytes, until: Patience.deadline())
  }

  private func hear(_ count: Int, on connection: Connection) throws -> String {
    String(decoding: try receive(count, on: connection), as: UTF8.self)
  }

  private func receive(_ count: Int, on connection: Connection) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    // unsafe: any bytes may be stored in an array of bytes.
    var raw = unsafe span.mutableBytes
    try connection.receiveAll(into: &raw, until: Patience.deadline())
    return bytes
  }

  /// What ends the stream, after `count` bytes.
  private func ending(of connection: Connection, after count: Int = 0) throws -> String {
    _ = try receive(count, on: connection)
    do {
      _ = try receive(1, on: connection)
    } catch let error as ConnectionError {
      return error.kind == .closedByPeer ? "end" : error.kind == .reset ? "reset" : "\(error)"
    }
    return "more"
  }

  private func isSilent(_ connection: Connection) throws -> Bool {
    try connection.waitReadable(until: MonotonicClock.now()) == .deadline
  }

  @Test("passes both ways byte for byte, and the ends in order", arguments: [true, false])
  func passes(isTCP: Bool) throws {
    let ends = try Ends(isTCP: isTCP)
    let (client, server) = try ends.connect()
    let bytes = try RandomBytes.make(300_000)
    let sender = try WorkerThread(name: "sender") {
      try? Self.send(bytes, on: client)
      client.endSending()
    }
    #expect(try receive(bytes.count, on: server) == bytes)
    sender.join()
    #expect(try ending(of: server) == "end")
    try say("answer", on: server)
    #expect(try hear(6, on: client) == "answer")
    server.endSending()
    #expect(try ending(of: client) == "end")
    try ends.relay.waitFor("closed")
  }

  @Test("cuts at the very byte, with an end on both sides")
  func cuts() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.cut, .toServer, afterByteCount: 1000))
    try say(String(repeating: "x", count: 5000), on: client)
    #expect(try ending(of: server, after: 1000) == "end")
    #expect(try ending(of: client) == "end")
    try ends.relay.waitFor(fault: .cut)
  }

  @Test("resets both sides")
  func resets() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try say("hello", on: client)
    #expect(try hear(5, on: server) == "hello")
    try ends.relay.order(FaultOrder(.reset))
    #expect(try ending(of: client) == "reset")
    #expect(try ending(of: server) == "reset")
  }

  @Test("tells one side of a half-open link, and the other one nothing")
  func halfOpen() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try say("a", on: client)
    #expect(try hear(1, on: server) == "a")
    try ends.relay.order(FaultOrder(.halfOpen, .toServer))
    #expect(try ending(of: server) == "end")
    try say("nobody hears this", on: client)
    #expect(try isSilent(client))
    client.shutdown()
    try ends.relay.waitFor("closed")
  }

  @Test("drops without a word, and goes on where it was once that is over")
  func drops() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.drop))
    try say("later", on: client)
    // A link of the same moment, which is not even dialled.
    let late = try ends.dial()
    try ends.relay.waitFor("opened") { $0.link == 1 }
    #expect(try isSilent(server) && isSilent(client))
    #expect(try ends.relay.links.map(\.isConnected) == [true, false])
    #expect(try ends.relay.links[0].toServerByteCount == 0)
    try ends.relay.order(FaultOrder(.clear))
    #expect(try hear(5, on: server) == "later")
    let second = try ends.listener.accept(until: Patience.deadline())
    try say("two", on: late)
    #expect(try hear(3, on: second) == "two")
  }

  @Test("swallows one way, and resets the stream that has a hole")
  func swallows() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.swallow, .toServer))
    try say("lost", on: client)
    try say("heard", on: server)
    #expect(try hear(5, on: client) == "heard")
    while try ends.relay.links[0].toServerByteCount < 4 { try ends.relay.program.pause() }
    #expect(try isSilent(server))
    try ends.relay.order(FaultOrder(.clear))
    #expect(try ending(of: client) == "reset")
    #expect(try ending(of: server) == "reset")
  }

  @Test("stalls until the sender's window is full")
  func stalls() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.stall, .toServer))
    let piece = [UInt8](repeating: 7, count: 65_536)
    var total = 0
    // The kernel's buffers of two sockets hold some MiB; a link that takes has no such bound.
    while total < 64 << 20 {
      let span = piece.span
      // unsafe: the bytes of an array of bytes may be read as such.
      let count = try unsafe client.trySend(span.bytes)
      if count == 0 { break }
      total += count
    }
    #expect(total < 64 << 20)
    #expect(try isSilent(server))
    try say("back", on: server)
    #expect(try hear(4, on: client) == "back")
    try ends.relay.order(FaultOrder(.clear))
    #expect(try receive(total, on: server).allSatisfy { $0 == 7 })
  }

  @Test("turns one bit over where it is told, and a share of them")
  func corrupts() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.corrupt, .toServer, afterByteCount: 100))
    let zeros = [UInt8](repeating: 0, count: 200_000)
    try Self.send(Array(zeros.prefix(1000)), on: client)
    let once = try receive(1000, on: server)
    #expect(once.enumerated().filter { $0.element != 0 }.map(\.offset) == [100])
    #expect(once[100].nonzeroBitCount == 1)
    try ends.relay.order(FaultOrder(.corrupt, .toServer, value: 1000))
    let sender = try WorkerThread(name: "sender") {
      try? Self.send(zeros, on: client)
    }
    let wrongCount = try receive(zeros.count, on: server).count { $0 != 0 }
    sender.join()
    #expect((100...400).contains(wrongCount), "about one in a thousand of 200 000")
  }

  @Test("holds a connection back behind a later one")
  func holds() throws {
    let ends = try Ends()
    try ends.relay.order(FaultOrder(.hold, value: 1))
    let first = try ends.dial()
    try ends.relay.waitFor("opened") { $0.link == 0 }
    try say("first", on: first)
    let second = try ends.dial()
    try say("other", on: second)
    var heard: [String] = []
    for _ in 0..<2 {
      heard.append(try hear(5, on: ends.listener.accept(until: Patience.deadline())))
    }
    // Both are dialled now; which is accepted first is their order in the list of links.
    #expect(heard.sorted() == ["first", "other"])
    let opened = try ends.relay.waitFor("opened") { $0.link == 1 }
    let connected = try ends.relay.waitFor("connected") { $0.link == 0 }
    #expect(connected.timeNanoseconds >= opened.timeNanoseconds)
  }

  @Test("refuses, and listens again", arguments: [true, false])
  func refuses(isTCP: Bool) throws {
    let ends = try Ends(isTCP: isTCP)
    try ends.relay.order(FaultOrder(.refuse))
    #expect(throws: ConnectionError.self) { try ends.dial() }
    try ends.relay.order(FaultOrder(.clear))
    let (client, server) = try ends.connect()
    try say("there", on: client)
    #expect(try hear(5, on: server) == "there")
  }

  @Test("is an open socket of somebody else")
  func silent() throws {
    let ends = try Ends()
    try ends.relay.order(FaultOrder(.silent))
    let client = try ends.dial()
    try say("anybody?", on: client)
    try ends.relay.waitFor("opened")
    #expect(try isSilent(client))
    client.shutdown()
    try ends.relay.waitFor("closed")
    #expect(throws: ConnectionError.self) {
      try ends.listener.accept(until: MonotonicClock.now())
    }
  }

  @Test("delays and limits, in order and without loss")
  func shapes() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.delay, .toServer, value: 20))
    try ends.relay.order(FaultOrder(.limit, .toServer, value: 1_000_000))
    let bytes = try RandomBytes.make(100_000)
    let start = MonotonicClock.now()
    try Self.send(bytes, on: client)
    #expect(try receive(bytes.count, on: server) == bytes)
    // No upper bound: only that it cannot have come sooner than the rate lets it.
    #expect(MonotonicClock.now().nanoseconds(since: start) >= 100_000_000)
  }

  @Test("carries out what it was told to do later, and ends what was to last a while")
  func later() throws {
    let ends = try Ends()
    let (client, server) = try ends.connect()
    try ends.relay.order(FaultOrder(.drop, afterMilliseconds: 1, forMilliseconds: 30))
    try ends.relay.waitFor(fault: .drop)
    try say("x", on: client)
    #expect(try hear(1, on: server) == "x")
    try ends.relay.waitFor("cleared")
  }

  @Test("ends by itself when both sides are gone")
  func ends() throws {
    let ends = try Ends(options: ["--idle-limit", "1"])
    let (client, server) = try ends.connect()
    client.shutdown()
    server.shutdown()
    try ends.relay.waitFor("ended")
    #expect(try ends.relay.program.end() == .exited(code: 0))
  }

  @Test("refuses orders that mean nothing, and addresses of other hosts")
  func nonsense() throws {
    let ends = try Ends()
    for order in [
      FaultOrder(.halfOpen), FaultOrder(.limit), FaultOrder(.cut, forMilliseconds: 5),
      FaultOrder(.silent, afterByteCount: 5), FaultOrder(.drop, forMilliseconds: .max),
    ] {
      #expect(throws: HarnessError.self) { try ends.relay.order(order) }
    }
    let far = try Program(
      "linkfault",
      [Binaries.path("linkfault"), "run", "--listen", "0.0.0.0:0", "--connect", "192.0.2.1:1"])
    #expect(try far.end() == .exited(code: 64))
  }

  @Test("draws the same trouble from the same seed, and ends it", arguments: 1...20)
  func chaos(seed: UInt64) {
    let orders = Chaos.orders(seed: seed, count: 30, milliseconds: 10_000)
    #expect(orders == Chaos.orders(seed: seed, count: 30, milliseconds: 10_000))
    #expect(orders != Chaos.orders(seed: seed + 1, count: 30, milliseconds: 10_000))
    for order in orders {
      #expect(order.objection == nil)
      #expect(order.afterMilliseconds! < 10_000)
      #expect(!order.action.lasts || order.forMilliseconds != nil || order.action == .corrupt)
    }
  }
}
