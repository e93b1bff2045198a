import Codec
import Migration
import Pages
import Session
import System
import Wire

/// One input that is worth starting from.
public struct FuzzSeed: Sendable {
  /// Its file's name in the corpus.
  public let name: String
  /// The input.
  public let bytes: [UInt8]
}

extension FuzzTarget {
  /// Inputs that go deep: built from what the encoders give, so that they follow the formats. The
  /// corpus holds them as files; a unit test compares the two.
  public var seeds: [FuzzSeed] {
    switch self {
    case .frames: FrameSeeds.all
    case .handshake: FrameSeeds.introductions
    case .attach: StateSeeds.attach
    case .journal: StateSeeds.journal
    case .pageStates: StateSeeds.pageStates
    case .cores: StateSeeds.cores
    case .control: FileSeeds.control
    case .saved: FileSeeds.saved
    case .export: FileSeeds.export
    }
  }
}

enum FrameSeeds {
  private static let shortID = Given.session.shortID
  private static let refusal = Refusal(.operatorRequest, "by hand")

  static let hello = Hello(
    role: .urgent, session: .none, epoch: Epoch(rawValue: 0), progress: .unknown,
    token: Given.token, vmName: Given.vmName, regions: Given.regions)

  private static let bulkHello = Hello(
    role: .bulk, session: Given.session, epoch: Given.epoch, progress: .preparing,
    token: Given.token, vmName: Given.vmName, regions: [])

  private static let welcome = Welcome(
    session: Given.session, epoch: Given.epoch, mode: .postCopy, bulkConnectionCount: 2,
    isHandedOff: false, regions: Given.regions)

  private static func run(_ region: Int, _ start: Int, _ count: Int) -> PageRun {
    PageRun(
      region: RegionIndex(region), start: PageIndex(start), count: PageCount(count))
  }

  private static func encoded(_ header: FrameHeader) -> [UInt8] {
    var bytes: [UInt8] = []
    header.appendEncoded(to: &bytes)
    return bytes
  }

  private static func withPayload(_ type: FrameType, isLast: Bool, _ payload: [UInt8]) -> [UInt8] {
    encoded(.payload(type, isLast: isLast, session: shortID, payload.rawBytes)) + payload
  }

  private static func control(_ messages: [ControlMessage]) -> [UInt8] {
    messages.flatMap { $0.encodedFrame(session: shortID) }
  }

  /// Pages 3 to 202 of the 258 are here.
  private static let residentMap: [UInt8] = {
    var encoder = ResidentMap.Encoder(session: shortID)
    encoder.append(pageCount: 3, isResident: false)
    encoder.append(pageCount: 200, isResident: true)
    encoder.append(pageCount: 55, isResident: false)
    return encoder.takeFrame(isLast: true)
  }()

  /// Of seeds what has changed of a page that was zeros.
  private static func packed(
    _ page: [UInt8], as encoding: PageEncoding, isDelta: Bool = false
  ) -> [UInt8] {
    let prefixByteCount = WireLimits.packedPrefixByteCount
    guard var buffer = try? PageBuffer(byteCount: prefixByteCount + page.count) else {
      invariantBroken("there is memory for two pages")
    }
    var room = buffer.mutableBytes(prefixByteCount..<buffer.byteCount)
    var packer = PagePacker()
    guard let count = packer.pack(page.rawBytes, as: encoding, into: &room) else {
      invariantBroken("a page of one byte packs")
    }
    var prefix = buffer.mutableBytes(0..<prefixByteCount)
    PackedPages(
      encoding, contentsChecksum: CRC32C.checksum(of: page.rawBytes), isDelta: isDelta
    ).encode(into: &prefix)
    let bytes = buffer.bytes(0..<prefixByteCount + count)
    let payload = bytes.byteOffsets.map { bytes.loadLittleEndian(at: $0, as: UInt8.self) }
    let plain =
      isDelta
      ? FrameHeader.seedPages(
        run(0, 16, 1), pageSize: .small, session: shortID, sequence: 1, checksum: nil)
      : .pages(
        run(0, 16, 1), pageSize: .small, isDemanded: false, session: shortID, sequence: 1,
        checksum: nil)
    return encoded(
      plain.packed(
        byteCount: payload.count, checksum: CRC32C.checksum(of: payload.rawBytes))) + payload
  }

  /// A whole life of each connection in each direction.
  static let all: [FuzzSeed] = {
    let next = Given.epoch.advanced(by: 1)
    let page = [UInt8](repeating: 0xA5, count: 4096)
    let fromSource = control([
      .frozen(epoch: Given.epoch, discardPageCount: PageCount(42)), .go(epoch: next),
      .completeAcknowledged(epoch: next), .abort(epoch: Given.epoch, refusal),
      .ping(sequence: 7), .parked(epoch: Given.epoch, refusal),
    ])
    let fromDestination = control([
      .ready(epoch: Given.epoch), .discarded(epoch: Given.epoch), .prepared(epoch: Given.epoch),
      .ran(epoch: next, nanosecondsSinceStart: 9), .complete(epoch: next),
      .aborted(epoch: Given.epoch, Refusal(.vmm, "Grüße")), .pong(sequence: 7),
    ])
    let pages =
      encoded(
        .pages(
          run(0, 16, 1), pageSize: .small, isDemanded: true, session: shortID, sequence: 77,
          checksum: CRC32C.checksum(of: page.rawBytes))) + page
      + encoded(.zeroPages(run(0, 240, 16), isDemanded: true, session: shortID, sequence: 78))
      + encoded(.poisonedPages(run(1, 1, 1), isDemanded: false, session: shortID, sequence: 0))
    let packed = PageEncoding.allCases.flatMap { encoding in
      FrameSeeds.packed(page, as: encoding)
    }
    let bulk =
      packed + RunMap.zero.encodedFrame([run(0, 3, 5), run(1, 0, 2)][...], session: shortID)
      + withPayload(.deviceState, isLast: true, [1, 2, 3])
      + encoded(.pushFinished(session: shortID))
    let seeds =
      encoded(
        .seedPages(
          run(0, 16, 1), pageSize: .small, session: shortID, sequence: 1,
          checksum: CRC32C.checksum(of: page.rawBytes))) + page
      + FrameSeeds.packed(page, as: .lz4, isDelta: true)
      + encoded(.seedZeros(run(0, 240, 16), session: shortID, sequence: 2))
      + SeedRound.endFrame(1, session: shortID)
      + RunMap.discard.encodedFrame(
        [run(0, 3, 5), run(1, 0, 2)][...], isLast: true, session: shortID)
    return [
      FuzzSeed(name: "seed-welcome", bytes: [0] + welcome.encodedFrame()),
      FuzzSeed(name: "seed-refuse", bytes: [0] + refusal.encodedFrame(session: 0)),
      FuzzSeed(name: "seed-hello", bytes: [1] + hello.encodedFrame()),
      FuzzSeed(name: "seed-source-urgent", bytes: [2] + fromSource),
      FuzzSeed(name: "seed-source-pages", bytes: [2] + pages),
      FuzzSeed(name: "seed-source-bulk", bytes: [3] + bulk),
      FuzzSeed(name: "seed-source-seeds", bytes: [3] + seeds),
      FuzzSeed(
        name: "seed-destination-urgent",
        bytes: [4] + fromDestination
          + encoded(.request(run(1, 0, 1), session: shortID, sequence: 77))),
      FuzzSeed(
        name: "seed-destination-bulk",
        bytes: [5] + Credit.encodedFrame(total: ByteCount(1 << 20), session: shortID)
          + residentMap + SeedRound.appliedFrame(1, session: shortID)),
      FuzzSeed(
        name: "seed-source-check",
        bytes: [6] + control([.pong(sequence: 7)])
          + withPayload(.filler, isLast: true, [1, 2, 3])),
      FuzzSeed(
        name: "seed-destination-check",
        bytes: [7] + control([.ping(sequence: 7)])
          + Credit.encodedFrame(total: ByteCount(1 << 20), session: shortID)
          + control([.ready(epoch: Given.epoch)])),
    ]
  }()

  /// Pieces as `Introductions` takes them.
  static let introductions: [FuzzSeed] = {
    func piece(_ frame: [UInt8]) -> [UInt8] {
      let payload = frame[WireLimits.headerByteCount...]
      var bytes: [UInt8] = []
      bytes.appendLittleEndian(UInt16(payload.count))
      return bytes + payload
    }
    let joins =
      piece(hello.encodedFrame()) + piece(bulkHello.encodedFrame())
      + piece(bulkHello.encodedFrame())
    return [
      FuzzSeed(name: "seed-joins", bytes: [0] + joins),
      FuzzSeed(name: "seed-returns", bytes: [12] + joins + joins),
      FuzzSeed(name: "seed-welcome", bytes: [0] + piece(welcome.encodedFrame())),
      FuzzSeed(name: "seed-refusal", bytes: [0] + piece(refusal.encodedFrame(session: 0))),
    ]
  }()
}

enum StateSeeds {
  static let attach: [FuzzSeed] = {
    func seed(_ name: String, _ text: String) -> FuzzSeed {
      FuzzSeed(name: name, bytes: [6] + Array(text.utf8))
    }
    let first = "{\"base_host_virt_addr\":139637976727552,\"size\":8192,\"offset\":0"
    let second = "{\"base_host_virt_addr\":139637980921856,\"size\":2097152,\"offset\":2097152"
    return [
      seed("seed-first-generation", "[\(first)}]"),
      seed("seed-page-size-kib", "[\(first),\"page_size_kib\":4096}]"),
      seed(
        "seed-two-regions",
        "[\(second),\"page_size\":2097152},\n \(first),\"x\":\"\\\"]\",\"y\":null}]\u{0}"),
    ]
  }()

  static let journal: [FuzzSeed] = {
    let next = Given.epoch.advanced(by: 1)
    let source: [SourceRecord] = [
      .opened(session: Given.session, epoch: Given.epoch, mode: .postCopy),
      .handedOff(epoch: next), .ranAcknowledged(epoch: next), .completed(epoch: next),
      .opened(session: Given.session, epoch: next.advanced(by: 1), mode: .quick),
      .handedOff(epoch: next.advanced(by: 2)), .resumed(epoch: next.advanced(by: 3)),
      .fenced(epoch: next.advanced(by: 3)), .aborted(epoch: next.advanced(by: 3)),
    ]
    let destination: [DestinationRecord] = [
      .opened(session: Given.session, epoch: Given.epoch, mode: .postCopy),
      .prepared(epoch: Given.epoch), .goAccepted(epoch: next), .ran(epoch: next),
      .complete(epoch: next),
      .opened(session: Given.session, epoch: Given.epoch, mode: .postCopy),
      .goAccepted(epoch: next), .runRuledOut(epoch: next),
      .aborted(epoch: Given.epoch, Refusal(.vmm, "refused to run")),
    ]
    return [
      FuzzSeed(name: "seed-source", bytes: [0, 0x80, 0] + pieces(of: source)),
      FuzzSeed(name: "seed-destination", bytes: [1, 0x81, 1] + pieces(of: destination)),
      FuzzSeed(name: "seed-file", bytes: [0xC0] + file(of: Array(source.prefix(4)))),
    ]
  }()

  private static func payload(_ record: some JournaledRecord) -> [UInt8] {
    var writer = JournalWriter()
    record.encode(to: &writer)
    if record.isOpening { JournalFile.ownBinding.encode(to: &writer) }
    return writer.bytes
  }

  private static func pieces(of records: [some JournaledRecord]) -> [UInt8] {
    records.flatMap { record in
      let payload = payload(record)
      var bytes: [UInt8] = []
      bytes.appendLittleEndian(UInt16(payload.count))
      return bytes + payload
    }
  }

  private static func file(of records: [SourceRecord]) -> [UInt8] {
    records.enumerated().flatMap { position, record in
      JournalSlot.encode(payload: payload(record), sequence: UInt64(position), side: .source)
    }
  }

  static let pageStates: [FuzzSeed] = [
    FuzzSeed(
      name: "seed-events",
      bytes: [7, 0, 0, 1, 2, 3, 4, 5, 0, 1]
        + [0, 0, 0, 1, 0, 7, 2, 3, 1, 3, 4, 1, 4, 0, 7, 5, 2, 9, 0x85, 1, 2]),
    FuzzSeed(name: "seed-cut", bytes: [3, 1, 2, 2]),
    FuzzSeed(name: "seed-other-version", bytes: [3, 18, 2, 2]),
    FuzzSeed(name: "seed-other-session", bytes: [3, 7, 2, 2]),
  ]

  /// The straight way of each side, and one back.
  static let cores: [FuzzSeed] = {
    let toHandOff: [UInt8] = [1, 0, 2, 0, 4, 0, 0, 0, 4, 3, 0, 0, 4, 4, 1, 0]
    let toRun: [UInt8] = [2, 0, 1, 0, 4, 1, 7, 4, 0, 0, 4, 0x15, 1, 0, 0, 0, 1, 0]
    return [
      FuzzSeed(name: "seed-source", bytes: [0] + toHandOff + [4, 0x16, 4, 0x18, 1, 0, 6, 1]),
      FuzzSeed(name: "seed-source-undone", bytes: [0] + toHandOff + [4, 11, 1, 0, 0, 0]),
      FuzzSeed(name: "seed-source-unclear", bytes: [0] + toHandOff.dropLast() + [7, 4, 11, 1, 0]),
      FuzzSeed(name: "seed-destination", bytes: [1] + toRun + [7, 3, 1, 0, 4, 0x19]),
      FuzzSeed(name: "seed-destination-abort", bytes: [1, 2, 0, 1, 0, 4, 10, 7, 6, 1, 0, 6, 1]),
    ]
  }()
}
