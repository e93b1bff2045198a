import Codec
import Glibc
import System
import Testing

@testable import Uring

@Suite(.serialized, .timeLimit(.minutes(5)), .enabled(if: Machine.hasRing, "needs io_uring"))
struct RingTests {
  private let tag = RingTag(rawValue: 7)

  private func makeRing(byteCount: Int = 65_536) throws -> Ring {
    var ring = try Ring(entryCount: 8, memoryByteCount: byteCount)
    try ring.activate()
    return ring
  }

  /// All completions of one wait.
  private func wait(_ ring: inout Ring) throws -> [Completion] {
    var batch = CompletionBatch()
    try ring.submitAndWait()
    ring.reap(into: &batch)
    return (0..<batch.count).map { batch[$0] }
  }

  @Test func aPollIsLevelTriggeredWheneverItIsArmed() throws {
    var ring = try makeRing()
    let event = try WakeEvent()
    event.signal()
    for _ in 0..<3 {
      try ring.poll(event.rawValue, tag: tag)
      #expect(try wait(&ring) == [.ready(tag, .readable)])
    }
    event.drain()
    try ring.poll(event.rawValue, tag: tag)
    try ring.submitAndWait(for: 0)
    var batch = CompletionBatch()
    ring.reap(into: &batch)
    #expect(batch.count == 0)
    try ring.cancelAll()
  }

  @Test func bytesGoThroughTheRingsOwnMemory() throws {
    var ring = try makeRing()
    let (here, there) = try ScriptedSource.pair(.urgent)
    ring.store([1, 2, 3, 4].rawBytes, at: 100)
    try ring.sendNow(to: here.rawDescriptor, from: 100..<104, tag: tag)
    try ring.receive(from: here.rawDescriptor, into: 200..<300, tag: tag)
    try there.send([9, 8, 7].rawBytes)
    // The send is complete and says nothing; the wait is for the receive alone.
    #expect(try wait(&ring) == [.received(tag, byteCount: 3)])
    #expect(ring.unsubmittedCount == 0)
    #expect(
      (0..<3).map { ring.bytes(200..<203).loadLittleEndian(at: $0, as: UInt8.self) } == [9, 8, 7])
    var buffer = try TransferBuffer(byteCount: 4)
    var room = buffer.mutableBytes(0..<4)
    try there.receiveAll(into: &room)
    #expect(buffer.bytes(0..<4).loadLittleEndian(at: 0, as: UInt32.self) == 0x0403_0201)
    ring.move(200..<203, to: 201)
    #expect(ring.bytes(201..<202).loadLittleEndian(at: 0, as: UInt8.self) == 9)
  }

  @Test func aSendWithoutRoomTellsHowFarItCame() throws {
    var ring = try makeRing(byteCount: 4 << 20)
    let (here, there) = try ScriptedSource.pair(.urgent)
    let total = 4 << 20
    var sent = 0
    let reader = try GuestThread {
      var received = 0
      guard var buffer = try? TransferBuffer(byteCount: 65_536) else { return 0 }
      while received < total {
        var room = buffer.mutableBytes(0..<65_536)
        guard let count = try? there.receive(into: &room) else { break }
        received += count
      }
      return received
    }
    while sent < total {
      try ring.sendNow(to: here.rawDescriptor, from: sent..<total, tag: tag)
      try ring.poll(here.rawDescriptor, for: .writable, tag: RingTag(rawValue: 8))
      var shortByteCount: Int?
      var isReady = false
      // The poll ends the wait whether the send fell short or not.
      while !isReady {
        for completion in try wait(&ring) {
          switch completion {
          case .sendFellShort(tag, let byteCount): shortByteCount = byteCount
          case .ready: isReady = true
          default: Issue.record("unexpected: \(completion)")
          }
        }
      }
      sent += shortByteCount ?? total - sent
    }
    #expect(try reader.value() == total)
  }

  @Test func thePeersEndIsTold() throws {
    var ring = try makeRing()
    let (here, there) = try ScriptedSource.pair(.urgent)
    there.shutdown()
    try ring.receive(from: here.rawDescriptor, into: 0..<10, tag: tag)
    #expect(try wait(&ring) == [.endOfStream(tag)])
    try ring.sendNow(to: here.rawDescriptor, from: 0..<10, tag: tag)
    #expect(try wait(&ring) == [.connectionLost(tag, .brokenPipe)])
  }

  @Test func moreOperationsThanEntriesAreHandedOverInBetween() throws {
    var ring = try makeRing()
    let event = try WakeEvent()
    event.signal()
    for position in 0..<40 {
      try ring.poll(event.rawValue, tag: RingTag(rawValue: UInt32(position)))
    }
    var seen: [UInt32] = []
    while seen.count < 40 {
      for completion in try wait(&ring) {
        guard case .ready(let tag, _) = completion else { continue }
        seen.append(tag.rawValue)
      }
    }
    #expect(seen.sorted() == Array(0..<40))
  }

  @Test func cancellingLetsGoOfTheMemory() throws {
    var ring = try makeRing()
    let (here, there) = try ScriptedSource.pair(.urgent)
    try ring.receive(from: here.rawDescriptor, into: 0..<100, tag: tag)
    try ring.submitAndWait(for: 0)
    try ring.cancelAll()
    // What comes now stays in the socket.
    try there.send([5].rawBytes)
    try ring.receive(from: here.rawDescriptor, into: 0..<100, tag: tag)
    #expect(try wait(&ring) == [.received(tag, byteCount: 1)])
  }

  @Test func aRefusedRingNamesItsLikelyCause() {
    let refused = RingError(operation: .setup, errno: .notPermitted).description
    #expect(refused.contains("io_uring"))
    #expect(refused.contains("seccomp") || refused.contains("kernel.io_uring_disabled"))
    #expect(
      RingError(operation: .setup, errno: Errno(rawValue: ENOSYS)).description
        .contains("seccomp"))
    #expect(
      RingError(operation: .setup, errno: .outOfMemory).description.contains("locked memory"))
    #expect(
      RingError(operation: .features, errno: .notSupported).description.contains("6.1"))
  }
}
