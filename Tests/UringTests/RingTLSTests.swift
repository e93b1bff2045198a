import COpenSSL
import Glibc
import Pages
import Synchronization
import System
import Testing

@testable import Uring

/// A fault thread's way with TLS: the socket belongs to a ring, the session opens and seals in the
/// ring's memory.
@Suite(.timeLimit(.minutes(5))) struct RingTLSTests {
  /// One end of a connection on a ring, as the fault thread has it.
  struct RingEnd: ~Copyable {
    static let tag = RingTag(rawValue: 1)
    static let sealedIn = 0..<100_000
    static let plainIn = 100_000..<300_000
    static let plainOut = 300_000..<370_000
    static let sealedOut = 400_000..<500_000

    var ring: Ring
    let connection: Connection

    init(_ connection: Connection) throws {
      var ring = try Ring(entryCount: 8, memoryByteCount: 500_000)
      try ring.activate()
      connection.enterRing()
      self.ring = ring
      self.connection = connection
    }

    /// Opens what is there, or comes, until `count` bytes are there.
    mutating func receive(_ count: Int) throws -> [UInt8] {
      var filled = 0
      var sealed = Self.sealedIn.lowerBound..<Self.sealedIn.lowerBound
      while true {
        let room = Self.plainIn.lowerBound + filled..<Self.plainIn.lowerBound + count
        let opened = try ring.open(sealed, into: room, of: connection)
        filled += opened.byteCount
        sealed = sealed.lowerBound + opened.sealedByteCount..<sealed.upperBound
        if filled == count {
          #expect(opened.mayHaveMore, "there was no more room to find out")
          break
        }
        if opened.mayHaveMore { continue }
        #expect(sealed.isEmpty)
        try ring.receive(
          from: connection.rawDescriptor, into: Self.sealedIn, tag: Self.tag)
        var batch = CompletionBatch()
        try ring.submitAndWait()
        ring.reap(into: &batch)
        guard batch.count == 1, case .received(_, let byteCount) = batch[0] else {
          throw connection.ended(.cut, "recv")
        }
        sealed = Self.sealedIn.lowerBound..<Self.sealedIn.lowerBound + byteCount
      }
      #expect(sealed.isEmpty, "nothing came behind what was expected")
      return (0..<count).map {
        unsafe ring.bytes(Self.plainIn).unsafeLoad(
          fromByteOffset: $0, as: UInt8.self)
      }
    }

    mutating func send(_ bytes: [UInt8]) throws {
      // unsafe: the span is used up before the array goes.
      unsafe ring.store(bytes.span.bytes, at: Self.plainOut.lowerBound)
      let plain = Self.plainOut.lowerBound..<Self.plainOut.lowerBound + bytes.count
      let count = try ring.seal(plain, into: Self.sealedOut, of: connection)
      try ring.sendNow(
        to: connection.rawDescriptor,
        from: Self.sealedOut.lowerBound..<Self.sealedOut.lowerBound + count, tag: Self.tag)
      try ring.submitAndWait(for: 0)
    }
  }

  @Test(arguments: [5, 1 << 23]) func requestsAndPagesGoThroughARing(_ recordsPerKey: Int) throws {
    let context = try Party.context(recordsPerKey: recordsPerKey)
    let (client, server) = try Handshaken(client: context, server: context).ends()
    // What came along with the handshake is in the session already.
    try server.send([1, 2, 3])
    let source = ThreadBox(
      try WorkerThread(name: "source") {
        do {
          for round in 0..<200 {
            let request = try server.receiveAll(32)
            #expect(request == Pattern.bytes(0..<32, seed: round))
            if round % 9 == 0 { server.changeKeys() }
            try server.send(Pattern.bytes(0..<4128, seed: round))
          }
        } catch { Issue.record(error) }
      })
    defer { source.join() }
    var end = try RingEnd(client)
    #expect(try end.receive(3) == [1, 2, 3])
    for round in 0..<200 {
      if round % 7 == 0 { client.changeKeys() }
      try end.send(Pattern.bytes(0..<32, seed: round))
      #expect(try end.receive(4128) == Pattern.bytes(0..<4128, seed: round))
    }
  }

  @Test func theLargestPieceFitsIntoItsRoom() throws {
    let context = try Party.context(recordsPerKey: 1)
    let (client, server) = try Handshaken(client: context, server: context).ends()
    var end = try RingEnd(client)
    client.changeKeys()
    let bytes = Pattern.bytes(0..<65_536, seed: 1)
    let reader = ThreadBox(
      try WorkerThread(name: "reader") {
        do { #expect(try server.receiveAll(65_536) == bytes) } catch { Issue.record(error) }
      })
    try end.send(bytes)
    reader.join()
    client.leaveRing(betweenRecords: true)
    client.endSending()
    #expect(server.end() == .closedByPeer)
  }

  @Test func aGoodbyeAndACutAreToldApart() throws {
    let context = try Party.context()
    for isPolite in [true, false] {
      let (client, server) = try Handshaken(client: context, server: context).ends()
      var end = try RingEnd(client)
      if isPolite {
        server.shutdown()
      } else {
        _ = Glibc.shutdown(server.rawDescriptor, Int32(SHUT_RDWR))
      }
      do {
        _ = try end.receive(1)
        Issue.record("there was something to be received")
      } catch let error as ConnectionError {
        #expect(error.kind == (isPolite ? .closedByPeer : .cut))
      }
    }
  }

  @Test func halfARecordSentLeavesNoGoodbye() throws {
    let context = try Party.context()
    let (client, server) = try Handshaken(client: context, server: context).ends()
    client.enterRing()
    client.leaveRing(betweenRecords: false)
    client.endSending()
    #expect(server.end() == .cut)
  }
}

/// Counts what OpenSSL allocates, in a process of its own: the library takes other functions only
/// before its first allocation.
enum Allocations {
  static let count = Atomic<Int>(0)
  static let byteCount = Atomic<Int>(0)
  static let freed = Atomic<Int>(0)

  static func countAll() -> Bool {
    unsafe CRYPTO_set_mem_functions(
      { size, _, _ in
        Allocations.note(size)
        return unsafe malloc(size)
      },
      { old, size, _, _ in
        Allocations.note(size)
        if unsafe old != nil { Allocations.freed.add(1, ordering: .relaxed) }
        return unsafe realloc(old, size)
      },
      { old, _, _ in
        if unsafe old != nil { Allocations.freed.add(1, ordering: .relaxed) }
        unsafe free(old)
      }) == 1
  }

  private static func note(_ size: Int) {
    count.add(1, ordering: .relaxed)
    byteCount.add(size, ordering: .relaxed)
  }
}

@Suite struct AllocationTests {
  /// OpenSSL 3.0's packet writer takes four blocks of some forty bytes for each record that it
  /// seals, and gives them back; opening takes none, and no buffer is made anew.
  @Test func aFaultKeepsNothingAndAllocatesNoBuffer() async {
    await #expect(processExitsWith: .success) {
      guard Allocations.countAll() else { exit(2) }
      let context = try Party.context()
      let (client, server) = try Connection.pair(purpose: .urgent, tls: (context, context))
      var isOver = (client: false, server: false)
      while !isOver.client || !isOver.server {
        if !isOver.client { isOver.client = try client.advanceHandshake() }
        if !isOver.server { isOver.server = try server.advanceHandshake() }
      }
      let request = Pattern.bytes(0..<32, seed: 1)
      let page = Pattern.bytes(0..<4128, seed: 2)
      func fault() throws -> Bool {
        try client.send(request)
        guard try server.receiveAll(32) == request else { return false }
        try server.send(page)
        return try client.receiveAll(4128) == page
      }
      // The first ones make the buffers.
      for _ in 0..<3 { guard try fault() else { exit(3) } }
      let count = Allocations.count.load(ordering: .relaxed)
      let byteCount = Allocations.byteCount.load(ordering: .relaxed)
      let kept = count - Allocations.freed.load(ordering: .relaxed)
      guard kept > 0 else { exit(4) }
      for _ in 0..<1000 { guard try fault() else { exit(5) } }
      let more = Allocations.count.load(ordering: .relaxed) - count
      guard more <= 8 * 1000 else { exit(6) }
      guard Allocations.byteCount.load(ordering: .relaxed) - byteCount <= 64 * more else { exit(7) }
      guard count + more - Allocations.freed.load(ordering: .relaxed) <= kept else { exit(8) }
    }
  }
}
