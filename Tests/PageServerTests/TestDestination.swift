import Codec
import Pages
import Prefetch
import System
import Testing
import Uring
import Wire

@testable import PageServer

let testSession = SessionID(high: 1, low: 0x1234_5678)

/// One frame as the destination gets it.
struct ReceivedFrame {
  let header: FrameHeader
  /// Of packed pages the pages themselves.
  let payload: [UInt8]
  /// The payload is what has changed of pages.
  var delta: PackedPages?
}

/// The destination's end of one connection: judges every frame with the real gate.
final class TestPeer: Sendable {
  let connection: Connection
  private let gate: FrameGate
  private let layout: ImageLayout

  init(_ connection: Connection, _ role: ConnectionRole, _ layout: ImageLayout) {
    self.connection = connection
    self.layout = layout
    gate = .session(from: .source, on: role, session: testSession, layout: layout)
  }

  func receive(until deadline: Instant? = soon()) throws -> ReceivedFrame {
    let head = try connection.receiveAll(WireLimits.headerByteCount, until: deadline)
    let header = try gate.admit(head.rawBytes)
    var payload: [UInt8] = []
    if header.payloadByteCount > 0 {
      payload = try connection.receiveAll(header.payloadByteCount, until: deadline)
    }
    try header.verify(payload: payload.rawBytes)
    guard header.flags.contains(.packed) else {
      return ReceivedFrame(header: header, payload: payload)
    }
    let prefix = try PackedPages(decoding: payload.rawBytes, of: header.type)
    payload = try unpacked(payload, prefix, header)
    if !prefix.isDelta { try prefix.verify(payload.rawBytes, of: header.type) }
    return ReceivedFrame(header: header, payload: payload, delta: prefix.isDelta ? prefix : nil)
  }

  private func unpacked(
    _ payload: [UInt8], _ prefix: PackedPages, _ header: FrameHeader
  ) throws -> [UInt8] {
    let region = try #require(layout.region(header.run.region))
    var pages = [UInt8](
      repeating: 0, count: Int(header.run.count.byteCount(of: region.pageSize).rawValue))
    var unpacker = PageUnpacker()
    var roomBytes = pages.mutableSpan
    var room = unsafe roomBytes.mutableBytes
    let isWhole = unpacker.unpack(
      Array(payload[WireLimits.packedPrefixByteCount...]).rawBytes, as: prefix.encoding,
      into: &room)
    try #require(isWhole)
    return pages
  }

  func receiveControl() throws -> ControlMessage {
    let frame = try receive()
    return try ControlMessage(decoding: frame.payload.rawBytes, of: frame.header.type)
  }

  func request(_ page: Int, in region: Int = 0, count: Int = 1, sequence: UInt32) throws {
    let run = PageRun(
      region: RegionIndex(region), start: PageIndex(page), count: PageCount(count))
    var frame: [UInt8] = []
    FrameHeader.request(run, session: testSession.shortID, sequence: sequence)
      .appendEncoded(to: &frame)
    try connection.send(frame)
  }

  func send(_ message: ControlMessage) throws {
    try connection.send(message.encodedFrame(session: testSession.shortID))
  }

  /// Tells which pages of the image are here; `isCut` keeps the last frame back.
  func tellResidency(_ pages: [Range<Int>], of pageCount: Int, isCut: Bool = false) throws {
    var encoder = ResidentMap.Encoder(session: testSession.shortID)
    var next = 0
    func append(to end: Int, isResident: Bool) throws {
      guard end > next else { return }
      encoder.append(pageCount: end - next, isResident: isResident)
      next = end
      if next < pageCount { try connection.send(encoder.takeFrame(isLast: false)) }
    }
    for run in pages {
      try append(to: run.lowerBound, isResident: false)
      try append(to: run.upperBound, isResident: true)
    }
    try append(to: pageCount, isResident: false)
    if !isCut { try connection.send(encoder.takeFrame(isLast: true)) }
  }

  func grant(total: Int) throws {
    try connection.send(
      Credit.encodedFrame(total: ByteCount(total), session: testSession.shortID))
  }
}

/// A source at work on real sockets, with the destination's ends in the test's hands.
final class TestMigration: Sendable {
  let plane: SourceDataPlane
  private let backing: any MemoryBacking
  let layout: ImageLayout
  let urgent: TestPeer
  let bulk: [TestPeer]

  init(
    _ backing: any MemoryBacking, layout: ImageLayout? = nil, bulkCount: Int = 1,
    prefetch: PrefetchKind? = .bubbling, over text: String = "unix:", isReturn: Bool = false,
    bulkBytesPerSecond: UInt64? = nil, bandwidth: BandwidthLimit? = nil,
    packing: Packing = .none,
    sentSeeds: SentSeeds = SentSeeds(deltaCacheByteCount: 0),
    // A played destination sends no heartbeats.
    heartbeatBudgetNanoseconds: UInt64 = 3_600_000_000_000, busyPollNanoseconds: UInt64 = 0,
    hostHasRoom: @escaping @Sendable () -> Bool = HostProcessors.haveRoom,
    bulkProcessor: Int? = nil
  ) throws {
    let layout = layout ?? backing.naturalLayout
    self.layout = layout
    self.backing = backing
    try backing.validate(layout)
    let plane = try SourceDataPlane(
      backing: backing, layout: layout, session: testSession, prefetch: prefetch,
      bandwidth: bandwidth ?? BandwidthLimit(bytesPerSecond: bulkBytesPerSecond),
      packing: packing, sentSeeds: sentSeeds,
      isReturn: isReturn,
      heartbeatBudgetNanoseconds: heartbeatBudgetNanoseconds,
      busyPollNanoseconds: busyPollNanoseconds, hostHasRoom: hostHasRoom,
      // Behind nobody and before nobody: other tests run beside it.
      urgentPlacement: ThreadPlacement(),
      bulkPlacement: ThreadPlacement(processor: bulkProcessor))
    self.plane = plane
    let listener = try Listener(
      text == "unix:" ? .unix(path: temporaryPath("sock")) : Endpoint(parsing: text))
    func connect(_ purpose: Connection.Purpose) throws -> (Connection, Connection) {
      let client = try Connection.dial(listener.endpoint, purpose: purpose, until: soon())
      let server = try listener.accept(until: soon())
      try server.setPurpose(purpose)
      return (client, server)
    }
    let (client, server) = try connect(.urgent)
    urgent = TestPeer(client, .urgent, layout)
    try plane.attachUrgent(server)
    bulk = try (0..<bulkCount).map { _ in
      let (client, server) = try connect(.bulk)
      try plane.attachBulk(server)
      return TestPeer(client, .bulk, layout)
    }
  }

  deinit {
    // The destination closes first, so that stopping waits for nothing.
    urgent.connection.shutdown()
    plane.stop()
  }

  func beginServing() throws {
    try backing.markFrozen()
    plane.beginServing()
  }

  func notice() throws -> SourceNotice {
    guard let notice = plane.events.receive(until: soon()) else { throw TestTimeout() }
    return notice
  }
}

struct TestTimeout: Error {}

/// What arrived on all connections of one migration, page by page.
struct Arrivals: Sendable {
  var pushed: [Int]
  var demanded: [Int]
  var mapped: [Int]
  var wrong: [String] = []
  var finished = 0

  init(pageCount: Int) {
    pushed = Array(repeating: 0, count: pageCount)
    demanded = pushed
    mapped = pushed
  }

  /// Whether each page has come, none of them pushed twice, named twice by the map, or both when
  /// somebody wrote it. An absent page may be pushed as zeros before the map comes to it.
  var areComplete: Bool {
    zip(pushed, mapped).allSatisfy { $0 <= 1 && $1 <= 1 && $0 + $1 >= 1 }
  }

  /// Books one frame; `expected` gives the true content of a page.
  mutating func book(
    _ frame: ReceivedFrame, layout: ImageLayout, expected: (Int) -> [UInt8]
  ) throws {
    switch frame.header.type {
    case .zeroMap:
      for position in 0..<(try RunMap.zero.runCount(in: frame.payload.rawBytes)) {
        let run = try RunMap.zero.run(at: position, in: frame.payload.rawBytes, of: layout)
        for index in layout.flatRange(of: run) {
          mapped[index] += 1
          if expected(index).contains(where: { $0 != 0 }) { wrong.append("mapped \(index)") }
        }
      }
    case .pages, .zeroPages:
      let isDemanded = frame.header.flags.contains(.demanded)
      for (position, index) in layout.flatRange(of: frame.header.run).enumerated() {
        if isDemanded { demanded[index] += 1 } else { pushed[index] += 1 }
        let content = expected(index)
        let found =
          frame.header.type == .zeroPages
          ? [UInt8](repeating: 0, count: content.count)
          : Array(frame.payload[position * content.count..<(position + 1) * content.count])
        if found != content { wrong.append("page \(index), demanded \(isDemanded)") }
      }
    case .pushFinished: finished += 1
    default: wrong.append("\(frame.header.type)")
    }
  }
}
