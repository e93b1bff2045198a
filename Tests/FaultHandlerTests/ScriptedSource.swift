import Codec
import Glibc
import Pages
import System
import Testing
import Uring
import Wire

/// The source's side of a session, played frame by frame by the test.
final class ScriptedSource: Sendable {
  static let session = SessionID(high: 0x1122_3344_5566_7788, low: 0x99AA_BBCC_DDEE_FF01)
  let urgent: Connection
  let bulk: [Connection]
  let shortID = ScriptedSource.session.shortID

  init(urgent: Connection, bulk: [Connection]) {
    self.urgent = urgent
    self.bulk = bulk
  }

  /// Two ends of a stream.
  static func pair(_ purpose: Connection.Purpose) throws -> (Connection, Connection) {
    var numbers: [Int32] = [-1, -1]
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    try #require(unsafe socketpair(AF_UNIX, kind, 0, &numbers) == 0)
    let peer = Endpoint.unix(path: "test")
    return (
      try Connection(adopting: OwnedDescriptor(adopting: numbers[0]), peer: peer, purpose: purpose),
      try Connection(adopting: OwnedDescriptor(adopting: numbers[1]), peer: peer, purpose: purpose)
    )
  }

  /// The next frame that the destination sent there, with its payload.
  func next(on connection: Connection) throws -> (FrameHeader, [UInt8]) {
    let head = try receive(WireLimits.headerByteCount, on: connection)
    let header = try FrameHeader(decoding: head.rawBytes)
    let payload =
      header.payloadByteCount > 0 ? try receive(header.payloadByteCount, on: connection) : []
    return (header, payload)
  }

  private func receive(_ count: Int, on connection: Connection) throws -> [UInt8] {
    var buffer = try TransferBuffer(byteCount: count)
    var room = buffer.mutableBytes(0..<count)
    // What a destination that is sound has said long before: one that says it never ends the test.
    let limit = MonotonicClock.now().advanced(byNanoseconds: 120_000_000_000)
    try connection.receiveAll(into: &room, until: limit)
    var bytes: [UInt8] = []
    buffer.append(0..<count, to: &bytes)
    return bytes
  }

  /// The next request on the urgent connection.
  func nextRequest() throws -> FrameHeader {
    while true {
      let (header, _) = try next(on: urgent)
      if header.type == .request { return header }
    }
  }

  func send(_ header: FrameHeader, _ payload: [UInt8] = [], on connection: Connection) throws {
    var bytes: [UInt8] = []
    header.appendEncoded(to: &bytes)
    bytes += payload
    try connection.send(bytes.rawBytes)
  }

  func send(_ message: ControlMessage) throws {
    try urgent.send(message.encodedFrame(session: shortID).rawBytes)
  }

  /// Pages of one region with the words that the source has there.
  func sendPages(
    _ pages: Range<Int>, region: Int = 0, size: PageSize = .small, isDemanded: Bool = false,
    sequence: UInt32 = 0, on connection: Connection
  ) throws {
    var payload: [UInt8] = []
    for page in pages {
      payload += PageContent.bytes(PageContent.word(page, region: region), size)
    }
    let header = FrameHeader.pages(
      Self.run(pages, region), pageSize: size, isDemanded: isDemanded, session: shortID,
      sequence: sequence, checksum: CRC32C.checksum(of: payload.rawBytes))
    try send(header, payload, on: connection)
  }

  /// The same pages, packed; seeds as what has changed of them since a version, if one is given.
  /// `damage` changes the payload before it is checksummed.
  func sendPacked(
    _ pages: Range<Int>, region: Int = 0, size: PageSize = .small, as encoding: PageEncoding,
    isSeed: Bool = false, since version: UInt64? = nil, on connection: Connection,
    damage: (inout [UInt8]) -> Void = { _ in }
  ) throws {
    var contents: [UInt8] = []
    var changes: [UInt8] = []
    for page in pages {
      let word = PageContent.word(page, region: region)
      let bytes = PageContent.bytes(word, size)
      contents += bytes
      let before = version.map { PageContent.bytes(word &+ $0 << 8, size) }
      changes += before.map { zip(bytes, $0).map { $0 ^ $1 } } ?? bytes
    }
    var packer = PagePacker()
    var room = [UInt8](repeating: 0, count: contents.count)
    var spanBytes = room.mutableSpan
    var span = unsafe spanBytes.mutableBytes
    let count = try #require(packer.pack(changes.rawBytes, as: encoding, into: &span))
    let prefix = PackedPages(
      encoding, contentsChecksum: CRC32C.checksum(of: contents.rawBytes),
      isDelta: version != nil)
    var payload = [UInt8](repeating: 0, count: WireLimits.packedPrefixByteCount)
    var prefixSpanBytes = payload.mutableSpan
    var prefixSpan = unsafe prefixSpanBytes.mutableBytes
    prefix.encode(into: &prefixSpan)
    payload += room[..<count]
    damage(&payload)
    let run = Self.run(pages, region)
    let plain =
      isSeed
      ? FrameHeader.seedPages(
        run, pageSize: size, session: shortID, sequence: 0, checksum: nil)
      : .pages(
        run, pageSize: size, isDemanded: false, session: shortID, sequence: 0, checksum: nil)
    try send(
      plain.packed(
        byteCount: payload.count, checksum: CRC32C.checksum(of: payload.rawBytes)),
      payload, on: connection)
  }

  /// Seeds of pages as the source has them, or had them when it ran: `version` of their words.
  func sendSeeds(
    _ pages: Range<Int>, region: Int = 0, size: PageSize = .small, version: UInt64 = 0,
    on connection: Connection
  ) throws {
    var payload: [UInt8] = []
    for page in pages {
      payload += PageContent.bytes(PageContent.word(page, region: region) &+ version << 8, size)
    }
    let header = FrameHeader.seedPages(
      Self.run(pages, region), pageSize: size, session: shortID, sequence: 0,
      checksum: CRC32C.checksum(of: payload.rawBytes))
    try send(header, payload, on: connection)
  }

  func sendSeedZeros(_ pages: Range<Int>, on connection: Connection) throws {
    try send(.seedZeros(Self.run(pages, 0), session: shortID, sequence: 0), on: connection)
  }

  /// Says the end of a round on each bulk connection and awaits the answers.
  func endRound(_ number: UInt64) throws {
    for connection in bulk {
      try connection.send(SeedRound.endFrame(number, session: shortID).rawBytes)
    }
    for connection in bulk {
      while true {
        let (header, payload) = try next(on: connection)
        guard header.type == .seedRoundApplied else { continue }
        #expect(try SeedRound.number(in: payload.rawBytes, of: header.type) == number)
        break
      }
    }
  }

  func sendDiscards(_ runs: [PageRun], isLast: Bool = true) throws {
    let frame = RunMap.discard.encodedFrame(runs[...], isLast: isLast, session: shortID)
    try bulk[0].send(frame.rawBytes)
  }

  func sendZeros(_ pages: Range<Int>, isDemanded: Bool = false, on connection: Connection) throws {
    try send(
      .zeroPages(
        Self.run(pages, 0), isDemanded: isDemanded, session: shortID, sequence: 0),
      on: connection)
  }

  func sendZeroMap(_ runs: [PageRun]) throws {
    try bulk[0].send(RunMap.zero.encodedFrame(runs[...], session: shortID).rawBytes)
  }

  func sendPoison(_ pages: Range<Int>, isDemanded: Bool, on connection: Connection) throws {
    try send(
      .poisonedPages(
        Self.run(pages, 0), isDemanded: isDemanded, session: shortID, sequence: 0),
      on: connection)
  }

  func finishPush() throws {
    for connection in bulk { try send(.pushFinished(session: shortID), on: connection) }
  }

  static func run(_ pages: Range<Int>, _ region: Int = 0) -> PageRun {
    PageRun(
      region: RegionIndex(region), start: PageIndex(pages.lowerBound),
      count: PageCount(pages.count))
  }

  /// nil at the end of the connection; any other failure is a finding.
  private func nextRequestUntilEnd() -> FrameHeader? {
    do {
      return try nextRequest()
    } catch let error as ConnectionError where error.kind != .failed {
      return nil
    } catch {
      Issue.record("no request could be received: \(error)")
      return nil
    }
  }

  /// The whole resident map, as flat indices of the pages that are not awaited.
  func residentPages(of pageCount: Int) throws -> Set<Int> {
    var decoder = ResidentMap.Decoder(totalPageCount: PageCount(pageCount))
    var resident: Set<Int> = []
    while !decoder.isComplete {
      let (header, payload) = try next(on: bulk[0])
      guard header.type == .residentMap else { continue }
      try decoder.take(payload.rawBytes, isLast: header.flags.contains(.last)) {
        resident.formUnion($0)
      }
    }
    return resident
  }

  /// Answers every request with the source's pages until the connection ends.
  func serveRequests(size: PageSize = .small) throws -> GuestThread<Int> {
    try GuestThread { [self] in
      var served = 0
      while let request = nextRequestUntilEnd() {
        let start = Int(request.run.start.rawValue)
        let pages = start..<start + Int(request.run.count.rawValue)
        let region = Int(request.run.region.rawValue)
        do {
          try sendPages(
            pages, region: region, size: size, isDemanded: true, sequence: request.sequence,
            on: urgent)
        } catch {
          Issue.record("the answer to request \(request.sequence) was not sent: \(error)")
          break
        }
        served += pages.count
      }
      return served
    }
  }
}
