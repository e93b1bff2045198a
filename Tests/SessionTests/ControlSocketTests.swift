import Glibc
import Migration
import Pages
import System
import Testing
import Wire

@testable import Session

@Suite("The control socket", .timeLimit(.minutes(5)))
struct ControlSocketTests {
  let scratch: ScratchDirectory
  let orders: Mailbox<OrderRequest>
  let desk: SessionDesk
  let socket: ControlSocket

  init() throws {
    scratch = try ScratchDirectory()
    let orders = try Mailbox<OrderRequest>(capacity: 1)
    self.orders = orders
    desk = try SessionDesk(
      SessionStatus(vmName: try VMName("web1"), side: .source, state: "preparing"))
    desk.pass(to: { orders.post($0) })
    socket = try ControlSocket(
      path: scratch.path("control"), control: desk, keeper: KeeperClient())
  }

  private func client() throws -> ControlSocketClient { try ControlSocketClient(path: socket.path) }

  private func deadline() -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
  }

  /// A client that says what it likes.
  private func rawAnswer(to text: String) throws -> SessionAnswer? {
    let stream = try DescriptorStream.connect(socket.path, deadline: deadline())
    try stream.send(Array(text.utf8))
    var lines = LineSplitter(maximumByteCount: 65_536)
    var piece = [UInt8](repeating: 0, count: 65_536)
    var descriptors = DescriptorList()
    while true {
      if let line = lines.next() { return SessionAnswer(line: line) }
      guard
        case .bytes(let count) = try stream.receive(
          into: &piece, descriptors: &descriptors, until: deadline())
      else { return nil }
      let isWithinLimit = lines.append(piece[..<count])
      try #require(isWithinLimit)
    }
  }

  @Test("It is for this user alone, and tells what the session told last")
  func status() throws {
    #expect(try FileStatus.of(path: socket.path).permissions == 0o600)
    let client = try client()
    #expect(try client.ask(.status).status?.state == "preparing")
    desk.update {
      $0.state = "serving"
      $0.settledPageCount = 7
    }
    let status = try client.ask(.status).status
    #expect(status == desk.status && status?.state == "serving")
  }

  private let parked = Outcome(
    ending: .parked, reason: Refusal(.operatorRequest, "parked by the operator"),
    source: .stopped, destination: .runs)

  @Test("A stop is answered when the session has ended, with how it did")
  func stop() throws {
    let first = try client()
    try first.send(SessionRequest(.park))
    let request = try #require(orders.receive(until: deadline()))
    #expect(request.order == .park)
    // Whoever waits is not forgotten, and others are served meanwhile.
    #expect(try client().ask(.status).ok)
    desk.end(parked)
    let answer = try first.answer(to: .park)
    #expect(answer.ok && answer.outcome == "parked")
    #expect(answer.reason == "parked by the operator")
    // Too late to be asked for anything else.
    let late = try client().ask(.abort)
    #expect(late.ok && late.outcome == "parked")
    #expect(orders.take() == nil)
  }

  @Test("A session that goes on says so to the one who asked, and one without room to nobody")
  func refusedStop() throws {
    let aborting = try client()
    let parking = try client()
    try aborting.send(SessionRequest(.abort))
    let abort = try #require(orders.receive(until: deadline()))
    try parking.send(SessionRequest(.park))
    _ = try #require(orders.receive(until: deadline()))
    abort.refuse("the VM is handed off")
    let error = #expect(throws: ControlSocketError.self) { try aborting.answer(to: .abort) }
    #expect(error == .refused("the VM is handed off"))
    // What stands behind a stop waits for its answer, and is heard then.
    try parking.send(SessionRequest(.status))
    desk.end(parked)
    #expect(try parking.answer(to: .park).outcome == "parked")
    #expect(try parking.answer(to: .status).status?.state == "preparing")
  }

  @Test("An order that is taken is answered at once, and the session goes on")
  func accepted() throws {
    let client = try client()
    try client.send(SessionRequest(.switchOver))
    let request = try #require(orders.receive(until: deadline()))
    #expect(request.order == .switchOver)
    request.accept()
    let answer = try client.answer(to: .switchOver)
    #expect(answer.ok && answer.outcome == nil)
    #expect(try client.ask(.status).ok)
  }

  @Test("A limit is passed on with its figure, and without one when it is lifted")
  func limit() throws {
    let client = try client()
    for limit in [4096, nil] as [UInt64?] {
      try client.send(SessionRequest(.limitBandwidth, bytesPerSecond: limit))
      let request = try #require(orders.receive(until: deadline()))
      #expect(request.order == .limitBandwidth(bytesPerSecond: limit))
      request.accept()
      #expect(try client.answer(to: .limitBandwidth).ok)
    }
  }

  @Test("An order that finds no room, or no session yet, is said to")
  func noRoom() throws {
    let early = try SessionDesk(desk.status)
    #expect(early.ask(for: .park, ticket: 1)?.ok == false)
    let full = try SessionDesk(desk.status)
    full.pass(to: { _ in false })
    #expect(
      full.ask(for: .park, ticket: 1)?.error == "the session takes no order now; ask again")
  }

  @Test("Whoever waits when the socket is closed is told how the session ended")
  func lastAnswer() throws {
    let client = try client()
    try client.send(SessionRequest(.park))
    _ = try #require(orders.receive(until: deadline()))
    desk.end(parked)
    socket.close()
    #expect(try client.answer(to: .park).outcome == "parked")
  }

  @Test("What is no request is answered with why, and the connection lives on")
  func badRequests() throws {
    let rows = [
      ("hello\n", "a request is one line"), ("{}\n", "a request is one line"), ("\n", "one line"),
      ("{\"verb\":\"status\",\"version\":2}\n", "version 2"),
      ("{\"verb\":\"dance\",\"version\":1}\n", "no verb \"dance\""),
      ("{\"verb\":\"adopt\",\"version\":1}\n", "one end of a channel"),
      ("{\"verb\":\"bandwidth\",\"version\":1,\"bytesPerSecond\":4095}\n", "4096 to"),
      ("{\"verb\":\"bandwidth\",\"version\":1,\"bytesPerSecond\":-1}\n", "one line"),
      ("{\"verb\":\"bandwidth\",\"version\":1,\"bytesASecond\":4096}\n", "or null"),
    ]
    for (text, words) in rows {
      let answer = try rawAnswer(to: text)
      #expect(answer?.ok == false)
      #expect(answer?.error?.contains(words) == true, "\(text): \(answer?.error ?? "")")
    }
    #expect(try rawAnswer(to: "?\n{\"verb\":\"status\",\"version\":1}\n")?.ok == false)
    #expect(
      try rawAnswer(to: "{\"verb\":\"status\",\"version\":1,\"later\":[]}\n")?.ok == true)
  }

  @Test("A line without an end is cut off at the limit")
  func longLine() throws {
    let answer = try rawAnswer(
      to: String(repeating: "x", count: SessionRequest.maximumLineByteCount + 1))
    #expect(answer?.error?.contains("at most") == true)
    #expect(try client().ask(.status).ok)
  }

  @Test("One client too many is told so, and a place is free again when another leaves")
  func tooMany() throws {
    var clients: [ControlSocketClient] = []
    for _ in 0..<ControlSocket.maximumClientCount {
      let client = try client()
      try client.ask(.status)
      clients.append(client)
    }
    let last = try client()
    let line = try #require(try last.nextLine(until: deadline()))
    #expect(SessionAnswer(line: line)?.error?.contains("connected already") == true)
    clients.removeLast()
    // Its end is seen before the next client is let in: both wake the same thread.
    var answer: SessionAnswer?
    while answer == nil { answer = try? client().ask(.status) }
    #expect(answer?.ok == true)
  }

  @Test("Events come in order to those who asked for them, and a reader that stops is cut off")
  func events() throws {
    let reader = try client()
    let sleeper = try client()
    let asker = try client()
    try reader.ask(.events)
    try sleeper.ask(.events)
    // More than any socket buffer holds; the reader keeps up because each line is awaited.
    let filler = String(repeating: "x", count: 4000)
    for number in 0..<500 {
      #expect(socket.publish("\(number) \(filler)"))
      let line = try #require(try reader.nextLine(until: deadline()))
      #expect(String(decoding: line, as: UTF8.self).hasPrefix("\(number) "))
    }
    #expect(try asker.ask(.status).ok)
    var count = 0
    let error = #expect(throws: ControlSocketError.self) {
      while try sleeper.nextLine(until: deadline()) != nil { count += 1 }
    }
    #expect(error == .closed(path: socket.path))
    #expect(count < 500)
  }

  @Test("Closed, it is gone, and the next session's takes its place; a living one's does not")
  func closing() throws {
    let second = #expect(throws: SystemError.self) {
      _ = try ControlSocket(path: socket.path, control: desk, keeper: KeeperClient())
    }
    #expect(second?.errno.rawValue == EADDRINUSE)
    let reader = try client()
    try reader.ask(.events)
    socket.publish("last")
    socket.close()
    #expect(try reader.nextLine(until: deadline()) == Array("last".utf8))
    let error = #expect(throws: ControlSocketError.self) { _ = try client() }
    #expect(error?.isNobodyThere == true)
    let next = try ControlSocket(path: socket.path, control: desk, keeper: KeeperClient())
    #expect(try client().ask(.status).ok)
    next.close()
  }

  @Test("An adopter gets all that is kept, once, and nobody else as long as it lives")
  func adoption() throws {
    let keeper = KeeperClient()
    let path = scratch.path("adopt")
    let worker = try ControlSocket(path: path, control: desk, keeper: keeper)
    let event = try OwnedDescriptor.event()
    try keeper.keep("one", event)
    try keeper.keep("two", event)
    var pair = try DescriptorStreamPair.packets()
    let offered = pair.takeSecond()
    let channel = KeeperChannel(pair.takeFirst())
    let client = try ControlSocketClient(path: path)
    try client.ask(.adopt, descriptors: [offered.rawValue])
    #expect(keeper.hasKeeper)
    for name in ["one", "two"] {
      guard case .kept(let kept) = try channel.receive(until: deadline()) else {
        throw TestProcessError(description: "\(name) did not come")
      }
      #expect(kept.name == name)
      #expect(DescriptorIdentity.isSameOpenFile(kept.descriptor.rawValue, event.rawValue))
    }
    guard case .told(.handedOver) = try channel.receive(until: deadline()) else {
      throw TestProcessError(description: "the end of the list did not come")
    }
    var other = try DescriptorStreamPair.packets()
    let stranger = other.takeSecond()
    let error = #expect(throws: ControlSocketError.self) {
      try client.ask(.adopt, descriptors: [stranger.rawValue])
    }
    #expect(error == .refused("this worker has a keeper, which lives"))
    keeper.finished(exitCode: 11)
    guard case .told(.finished(exitCode: 11)) = try channel.receive(until: deadline()) else {
      throw TestProcessError(description: "the exit code did not come")
    }
    worker.close()
  }
}
