import Glibc
import Pages
import System
import Testing

@testable import Uring

@Suite(.timeLimit(.minutes(5))) struct StreamTests {
  /// A connection whose keys change every few records, or as usual.
  private func connected(
    recordsPerKey: Int = TLSEngine.recordsPerKey
  ) throws -> (client: Connection, server: Connection) {
    let context = try Party.context(recordsPerKey: recordsPerKey)
    return try Handshaken(client: context, server: context).ends()
  }

  /// Sends `byteCount` bytes of a pattern in pieces of growing size, on a thread of its own.
  private func sender(
    _ connection: Connection, _ byteCount: Int, seed: Int, changingKeysEvery interval: Int?
  ) throws -> WorkerThread {
    try WorkerThread(name: "sender") {
      var sent = 0
      var piece = 1
      var count = 0
      do {
        while sent < byteCount {
          let end = min(sent + piece, byteCount)
          try connection.send(Pattern.bytes(sent..<end, seed: seed))
          sent = end
          piece = piece % 70_001 + 1_237
          count += 1
          if let interval, count % interval == 0 { connection.changeKeys() }
        }
      } catch { Issue.record(error) }
    }
  }

  private func expectPattern(_ connection: Connection, _ byteCount: Int, seed: Int) throws {
    var received = 0
    var piece = 1
    while received < byteCount {
      let end = min(received + piece, byteCount)
      let bytes = try connection.receiveAll(end - received)
      guard bytes == Pattern.bytes(received..<end, seed: seed) else {
        Issue.record("wrong bytes in \(received)..<\(end)")
        return
      }
      received = end
      piece = piece % 50_021 + 3_001
    }
  }

  @Test func muchArrivesAsItWasSent() throws {
    let (client, server) = try connected()
    let thread = try sender(server, 16 << 20, seed: 1, changingKeysEvery: nil)
    try expectPattern(client, 16 << 20, seed: 1)
    thread.join()
  }

  /// Each side sends and receives at once, on two threads; keys change by count, and because the
  /// other side asks.
  @Test(arguments: [3, 1 << 23]) func keysChangeInBothDirectionsUnderTraffic(
    _ recordsPerKey: Int
  ) throws {
    let (client, server) = try connected(recordsPerKey: recordsPerKey)
    let byteCount = 4 << 20
    let threads = [
      ThreadBox(try sender(client, byteCount, seed: 2, changingKeysEvery: 7)),
      ThreadBox(try sender(server, byteCount, seed: 3, changingKeysEvery: 5)),
    ]
    let other = try WorkerThread(name: "receiver") {
      do { try expectPattern(server, byteCount, seed: 2) } catch { Issue.record(error) }
    }
    try expectPattern(client, byteCount, seed: 3)
    other.join()
    for thread in threads { thread.join() }
    // What was asked for last is answered with the next bytes.
    try client.send([1])
    #expect(try server.receiveAll(1) == [1])
    try server.send([2])
    #expect(try client.receiveAll(1) == [2])
  }

  @Test func whatTheSessionHasTakenFromTheSocketIsReadable() throws {
    let (client, server) = try connected()
    let past = MonotonicClock.now()
    #expect(try client.waitReadable(until: past) == .deadline)
    // One call on the client's socket takes all three records.
    for byte: UInt8 in [1, 2, 3] { try server.send([byte]) }
    #expect(try client.waitReadable(until: soon()) == .readable)
    #expect(try client.receiveAll(1) == [1])
    let event = try WakeEvent()
    while try client.receiveAvailable(atMost: 0 + 1) != [3] {
      #expect(try client.waitReadable(or: event, until: soon()) == .readable)
    }
    #expect(try client.waitReadable(until: past) == .deadline)
    try server.send([UInt8](repeating: 4, count: 100))
    #expect(try client.receiveAll(1) == [4])
    // 99 bytes wait in the session, and no poll of the socket would tell.
    #expect(try client.waitReadable(or: event, until: past) == .readable)
    event.signal()
    #expect(try client.waitReadable(or: event, until: past) == .event)
    event.drain()
    #expect(try client.receiveAll(99).allSatisfy { $0 == 4 })
    #expect(try client.waitReadable(or: event, until: past) == .deadline)
  }

  @Test func partOfARecordIsNothingYet() throws {
    let (client, sealed) = try connectedByHand()
    try sealed.relay.give(Array(sealed.bytes.prefix(20)))
    #expect(try client.receiveAvailable(atMost: 10) == nil)
    let past = MonotonicClock.now()
    #expect(try client.waitReadable(until: past) == .deadline)
    try sealed.relay.give(Array(sealed.bytes.dropFirst(20)))
    #expect(try client.receiveAll(4) == [1, 2, 3, 4])
  }

  @Test func halfARecordAndThenTheEndIsALostLink() throws {
    let (client, sealed) = try connectedByHand()
    try sealed.relay.give(Array(sealed.bytes.prefix(20)))
    sealed.relay.shutdown()
    #expect(client.end() == .cut)
    #expect(client.end() == .cut)
  }

  @Test func aChangedByteIsFound() throws {
    let (client, sealed) = try connectedByHand()
    var bytes = sealed.bytes
    bytes[12] ^= 0x10
    try sealed.relay.give(bytes)
    guard case .tls(.broken) = client.end() else {
      Issue.record("\(String(describing: client.end()))")
      return
    }
  }

  @Test func anEndWithoutGoodbyeIsALostLinkAndOneWithItIsNot() throws {
    let polite = try connected()
    polite.server.shutdown()
    #expect(polite.client.end() == .closedByPeer)
    let killed = try connected()
    // As the kernel does for a process that died.
    _ = Glibc.shutdown(killed.server.rawDescriptor, Int32(SHUT_RDWR))
    #expect(killed.client.end() == .cut)
  }

  @Test func afterTheLastWordTheOtherSideMaySpeakOn() throws {
    let (client, server) = try connected()
    client.endSending()
    #expect(server.end() == .closedByPeer)
    try server.send([7])
    #expect(try client.receiveAll(1) == [7])
    server.endSending()
    #expect(client.end() == .closedByPeer)
    let late = #expect(throws: ConnectionError.self) { try client.send([1]) }
    #expect(late != nil)
  }

  @Test func shutdownEndsBlockedCallsOfOtherThreads() throws {
    let (client, server) = try connected()
    let ends = Lock<[ConnectionError.Kind]>([])
    let receiver = try WorkerThread(name: "receiver") {
      if let end = client.end() { ends.withLock { $0.append(end) } }
    }
    let sender = try WorkerThread(name: "sender") {
      do throws(ConnectionError) {
        while true { try client.send([UInt8](repeating: 0, count: 1 << 20)) }
      } catch { ends.withLock { $0.append(error.kind) } }
    }
    client.shutdown()
    receiver.join()
    sender.join()
    #expect(ends.withLock { $0 } == [.shutDownHere, .shutDownHere])
    _ = server
  }

  @Test func sendingToADeadPeerIsAnErrorAndNoSignal() throws {
    let (client, server) = try connected()
    try client.send([1])
    _ = Glibc.shutdown(server.rawDescriptor, Int32(SHUT_RDWR))
    let error = #expect(throws: ConnectionError.self) {
      while true { try client.send([UInt8](repeating: 0, count: 65_536)) }
    }
    #expect(error?.kind == .reset)
  }

  @Test func aDeadlineEndsSendingAndReceiving() throws {
    let (client, server) = try connected()
    let past = MonotonicClock.now()
    var byte: [UInt8] = [0]
    var span = byte.mutableSpan
    // unsafe: any bytes may be stored in an array of bytes.
    var raw = unsafe span.mutableBytes
    do throws(ConnectionError) {
      _ = try server.receive(into: &raw, until: past)
      Issue.record("there was something to be received")
    } catch { #expect(error.kind == .timedOut) }
    let piece = [UInt8](repeating: 7, count: 1 << 20)
    let full = #expect(throws: ConnectionError.self) {
      while true { unsafe try client.send(piece.span.bytes, until: past) }
    }
    #expect(full?.kind == .timedOut)
  }

  @Test func tryingToSendNeverBlocksAndLosesNothing() throws {
    let (client, server) = try connected()
    let piece = Pattern.bytes(0..<65_536, seed: 5)
    var sent = 0
    var offset = 0
    var isFull = false
    while !isFull {
      let rest = Array(piece[offset...])
      let count = unsafe try client.trySend(rest.span.bytes)
      isFull = count == 0
      sent += count
      offset = (offset + count) % piece.count
    }
    #expect(sent > 0)
    // What found no room goes out ahead of the next bytes.
    let total = sent + 1
    let reader = try WorkerThread(name: "reader") {
      do {
        var received = 0
        while received < total {
          let count = min(65_536, total - received)
          #expect(try server.receiveAll(count) == Array(piece.prefix(count)))
          received += count
        }
      } catch { Issue.record(error) }
    }
    unsafe try client.send([piece[offset]].span.bytes, until: soon())
    reader.join()
  }

  /// A client whose peer's sealed bytes the test relays: `bytes` hold one record with 1, 2, 3, 4.
  private func connectedByHand() throws -> (Connection, (relay: Connection, bytes: [UInt8])) {
    let context = try Party.context()
    let (client, relay) = try Connection.pair(purpose: .urgent, tls: (context, context))
    let (server, tap) = try Connection.pair(purpose: .urgent, tls: (context, context))
    let answering = try Connection(
      adopting: OwnedDescriptor(adopting: dup(server.rawDescriptor)), peer: .unix(path: "tapped"),
      purpose: .urgent, (context, .server))
    var isOver = (client: false, server: false)
    while !isOver.client || !isOver.server {
      if !isOver.client { isOver.client = try client.advanceHandshake() }
      try tap.give(relay.taken())
      if !isOver.server { isOver.server = try answering.advanceHandshake() }
      try relay.give(tap.taken())
    }
    try answering.send([1, 2, 3, 4])
    return (client, (relay, tap.taken()))
  }
}

/// A thread in an array: `WorkerThread` itself cannot be copied.
final class ThreadBox {
  private var thread: WorkerThread?
  init(_ thread: consuming WorkerThread) { self.thread = consume thread }
  func join() { thread.take()?.join() }
}
