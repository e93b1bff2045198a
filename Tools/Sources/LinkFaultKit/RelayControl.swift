internal import FoundationEssentials
internal import Pages
internal import System
internal import Uring

/// The control socket: one order a line, one reply a line.
final class RelayControl {
  /// Clients at once: a test and a person.
  private static let maximumClientCount = 8
  /// An order is a hundred bytes; somebody who sends more without a line end is no client of ours.
  private static let maximumLineByteCount = 4096
  /// A client that does not take its reply in that time is gone.
  private static let replyNanoseconds: UInt64 = 1_000_000_000

  final class Client {
    let connection: Connection
    var received: [UInt8] = []

    init(_ connection: Connection) { self.connection = connection }
  }

  let listener: Listener
  private(set) var clients: [Client] = []

  init(path: String) throws(ConnectionError) { listener = try Listener(.unix(path: path)) }

  var hasRoom: Bool { clients.count < Self.maximumClientCount }

  func acceptClient() {
    // One that has gone again is no loss.
    if let connection = try? listener.accept(until: MonotonicClock.now()) {
      clients.append(Client(connection))
    }
  }

  /// Reads what a client says, and answers each whole line.
  func serve(clientAt index: Int, _ answer: (FaultOrder) -> RelayReply) {
    let client = clients[index]
    do throws(ConnectionError) {
      let limit = Self.maximumLineByteCount
      guard let bytes = try client.connection.receiveAvailable(atMost: limit) else { return }
      client.received += bytes
      while let end = client.received.firstIndex(of: 0x0A) {
        let line = Array(client.received[..<end])
        client.received.removeFirst(end + 1)
        try reply(to: line, client, answer)
      }
      if client.received.count > Self.maximumLineByteCount { clients.remove(at: index) }
    } catch {
      clients.remove(at: index)
    }
  }

  private func reply(
    to line: [UInt8], _ client: Client, _ answer: (FaultOrder) -> RelayReply
  ) throws(ConnectionError) {
    let reply: RelayReply
    do {
      reply = answer(try JSONDecoder().decode(FaultOrder.self, from: Data(line)))
    } catch {
      reply = RelayReply(ok: false, error: "not an order: \(error)")
    }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.replyNanoseconds)
    let text = Array(RelayLog.text(reply).utf8)
    // unsafe: the bytes of an array of bytes may be read as such; the array lives during the call.
    try unsafe client.connection.send(text.span.bytes, until: deadline)
  }
}
