internal import Codec
internal import Pages
internal import Synchronization
internal import System
internal import UFFD
internal import Uring
internal import Wire

/// What the thread of one bulk connection does: it receives frames into a small buffer that stays
/// in the cache, and installs their pages from there.
///
/// One receive brings a payload and, if it is there already, the next header; it never waits for a
/// header that may not come.
struct BulkInstaller: ~Copyable {
  /// Bytes of pushed pages that the source may have under way on one connection: above the product
  /// of a fast link's rate and round trip (10 Gbit/s and 3 ms), little enough to bound what is lost
  /// with the connection.
  static let windowByteCount: UInt64 = 4 << 20
  /// How much is installed between two grants: four of them keep a window from running dry.
  private static let grantByteCount = windowByteCount / 4
  private let plane: PlaneParts
  private let link: BulkLinks
  private let connection: Connection
  private let position: Int
  private var buffer: TransferBuffer
  /// Pages that came packed.
  private var unpacked: TransferBuffer
  private var unpacker = PageUnpacker()
  /// Bytes received and not handled: they start at 0.
  private var filled = 0
  private var installedByteCount: UInt64 = 0
  private var grantedByteCount: UInt64 = 0
  private var deviceState: [UInt8] = []
  private var hasDeviceState = false
  private var hasFinishedPush = false
  private var discardedPageCount = PageCount.zero
  /// A round that has ended here, and was not answered yet.
  private var roundToAnswer: UInt64?

  init(
    plane: PlaneParts, link: BulkLinks, position: Int
  ) throws(SystemError) {
    let hasHugePages = plane.installer.layout.regions.contains { $0.pageSize == .huge }
    let payload =
      hasHugePages
      ? WireLimits.maximumPagePayloadByteCount : WireLimits.maximumControlPayloadByteCount
    let buffer = try TransferBuffer(byteCount: payload + 2 * WireLimits.headerByteCount)
    let unpacked = try TransferBuffer(byteCount: payload)
    self.plane = plane
    self.link = link
    connection = link.connections[position]
    self.position = position
    self.buffer = buffer
    self.unpacked = unpacked
  }

  /// Runs until the connection ends, at the latest when it is shut down here.
  mutating func run() {
    do throws(ConnectionError) {
      // Credit first: the map may be long, and other connections' pushes wait for it alone.
      try grant()
      if link.tellsResidency, position == 0 { try sendResidentMap() }
      while !isEnding {
        try receive(atLeast: WireLimits.headerByteCount)
        let header: FrameHeader
        switch admit() {
        case .success(let admitted): header = admitted
        case .failure(let violation): return give(up: violation)
        }
        try receive(atLeast: header.frameByteCount)
        // Given up meanwhile: what is whole is dropped like what came in half.
        if link.isOver { return }
        if let violation = handle(header) { return give(up: violation) }
        buffer.move(header.frameByteCount..<filled, to: 0)
        filled -= header.frameByteCount
        if let round = roundToAnswer.take() {
          try connection.send(SeedRound.appliedFrame(round, session: plane.session).rawBytes)
        }
        if installedByteCount + Self.windowByteCount >= grantedByteCount + Self.grantByteCount {
          try grant()
        }
      }
    } catch {
      plane.events.sayOnce(
        .link(link.number, .bulk, position), .linkLost(.bulk, position: position, error))
    }
  }

  /// Uses nothing more of the connection. The session ends it, behind a word to the source.
  private func give(up violation: ProtocolViolation) {
    plane.events.sayOnce(
      .link(link.number, .bulk, position), .protocolViolation(.bulk, position: position, violation))
  }

  private var isEnding: Bool { plane.inbox.isEnding || link.isOver }

  /// Tells which pages are not awaited any more. What is installed while it is being told may be
  /// pushed once more, and is dropped then.
  private func sendResidentMap() throws(ConnectionError) {
    let total = Int(plane.installer.layout.totalPageCount.rawValue)
    var encoder = ResidentMap.Encoder(session: plane.session)
    var position = 0
    while position < total, !isEnding {
      let (pageCount, isResident) = plane.installer.residency(from: position)
      encoder.append(pageCount: pageCount, isResident: isResident)
      position += pageCount
      if encoder.isFull || position == total {
        try connection.send(encoder.takeFrame(isLast: position == total).rawBytes)
      }
    }
  }

  /// Lets the source send what was installed since, once more.
  private mutating func grant() throws(ConnectionError) {
    grantedByteCount = installedByteCount + Self.windowByteCount
    let frame = Credit.encodedFrame(
      total: ByteCount(rawValue: grantedByteCount), session: plane.session)
    // Forty bytes for each MiB that came: the peer's buffer never fills with them.
    try connection.send(frame.rawBytes)
  }

  /// Receives until `byteCount` bytes are there; the next header may come along.
  private mutating func receive(atLeast byteCount: Int) throws(ConnectionError) {
    // Behind a header alone nothing more is taken: how long its payload is, it has to tell first.
    let isHeader = byteCount == WireLimits.headerByteCount
    let limit = isHeader ? byteCount : byteCount + WireLimits.headerByteCount
    let connection = connection
    while filled < byteCount {
      let start = filled
      var room = buffer.mutableBytes(start..<limit)
      let count = try connection.receive(into: &room)
      filled = start + count
    }
  }

  private func admit() -> Result<FrameHeader, ProtocolViolation> {
    do throws(WireError) {
      return .success(try plane.bulkGate.admit(buffer.bytes(0..<filled)))
    } catch {
      return .failure(.frame(error))
    }
  }

  /// Handles a whole frame; what is wrong with it, if something is.
  private mutating func handle(_ header: FrameHeader) -> ProtocolViolation? {
    let payload = WireLimits.headerByteCount..<header.frameByteCount
    do throws(WireError) {
      try header.verify(payload: buffer.bytes(payload))
      guard plane.installer.mayTake(header.type) else {
        return .frame(.misplaced(header.type, from: .source, on: .bulk))
      }
      switch header.type {
      case .pages:
        let isPacked = header.flags.contains(.packed)
        if isPacked { _ = try unpack(header, payload) }
        install(header.run, isPacked ? nil : payload)
        if !header.flags.contains(.demanded) {
          installedByteCount += UInt64(pageByteCount(of: header))
        }
      case .zeroPages: zero(header.run)
      case .poisonedPages: poison(header.run)
      case .zeroMap: try applyZeroMap(payload)
      case .seedPages, .seedZeros, .seedRound, .discardMap:
        return try take(header, payload)
          ? nil : .frame(.misplaced(header.type, from: .source, on: .bulk))
      case .pushFinished:
        if !hasFinishedPush, link.notePushFinished() { plane.notePushFinished() }
        hasFinishedPush = true
      case .deviceState:
        return appendDeviceState(payload, isLast: header.flags.contains(.last))
      case .refuse: return .refusal(in: buffer.bytes(payload))
      default:
        // The gate lets nothing else through on this connection.
        return .frame(.misplaced(header.type, from: .source, on: .bulk))
      }
      return nil
    } catch {
      return .frame(error)
    }
  }

  private mutating func appendDeviceState(
    _ payload: Range<Int>, isLast: Bool
  ) -> ProtocolViolation? {
    guard !hasDeviceState else { return .deviceStateRepeated }
    guard deviceState.count + payload.count <= WireLimits.maximumDeviceStateByteCount else {
      return .deviceStateTooLong
    }
    buffer.append(payload, to: &deviceState)
    guard isLast else { return nil }
    hasDeviceState = true
    plane.events.sayOnce(.deviceState, .deviceState(deviceState))
    deviceState = []
    return nil
  }

  private func applyZeroMap(_ payload: Range<Int>) throws(WireError) {
    let count = try RunMap.zero.runCount(in: buffer.bytes(payload))
    for entry in 0..<count {
      zero(
        try RunMap.zero.run(at: entry, in: buffer.bytes(payload), of: plane.installer.layout))
    }
  }

  // MARK: Seeds

  /// Takes in what belongs to the rounds before the freeze; false when it comes at another time.
  private mutating func take(
    _ header: FrameHeader, _ payload: Range<Int>
  ) throws(WireError) -> Bool {
    switch header.type {
    case .seedPages:
      installedByteCount += UInt64(pageByteCount(of: header))
      guard header.flags.contains(.packed) else {
        return stage(header.run, buffer.bytes(payload))
      }
      guard try unpack(header, payload) else { return dropSeeds(header.run) }
      return stage(header.run, unpacked.bytes(0..<pageByteCount(of: header)))
    case .seedZeros:
      do throws(SeedFailure) { return try plane.installer.seedZeros(header.run) } catch {
        plane.report(error)
        return true
      }
    case .seedRound:
      roundToAnswer = try SeedRound.number(in: buffer.bytes(payload), of: .seedRound)
      // What a round names as stale is answered with it: the count that the source tells with the
      // freeze is of the others.
      discardedPageCount = .zero
      return plane.installer.stage != nil
    default: return try discard(payload, isLast: header.flags.contains(.last))
    }
  }

  private func stage(_ run: PageRun, _ bytes: RawSpan) -> Bool {
    do throws(SeedFailure) {
      let isTaken = try plane.installer.stageSeeds(run, bytes)
      if plane.installer.hasHeldUpSeeds.load(ordering: .relaxed) {
        plane.events.sayOnce(.seedsHeldUp, .seedsHeldUp)
      }
      return isTaken
    } catch {
      plane.report(error)
      return true
    }
  }

  /// Forgets seeds: stale ones, and those of which only what has changed came, which is of no use
  /// without the rest.
  private func dropSeeds(_ run: PageRun) -> Bool {
    var pages = plane.installer.layout.flatRange(of: run)
    repeat {
      do throws(SeedFailure) {
        guard try plane.installer.discardSeeds(&pages) else { return false }
      } catch {
        plane.report(error)
        return true
      }
    } while !pages.isEmpty && !isEnding
    return true
  }

  private mutating func discard(
    _ payload: Range<Int>, isLast: Bool
  ) throws(WireError) -> Bool {
    let count = try RunMap.discard.runCount(in: buffer.bytes(payload))
    for entry in 0..<count {
      let run = try RunMap.discard.run(
        at: entry, in: buffer.bytes(payload), of: plane.installer.layout)
      discardedPageCount = discardedPageCount + run.count
      guard dropSeeds(run) else { return false }
    }
    guard isLast, !isEnding else { return true }
    plane.endSeeds()
    // Else a stale page is there still, which was told.
    guard !plane.installer.isSeeding else { return true }
    plane.events.sayOnce(.discarded, .discarded(discardedPageCount))
    return true
  }

  // MARK: Fills

  /// Unpacks the pages of a frame to the front of their buffer; false when they are a delta of
  /// seeds that are not all here: there was no memory for them.
  private mutating func unpack(
    _ header: FrameHeader, _ payload: Range<Int>
  ) throws(WireError) -> Bool {
    let prefix = try PackedPages(decoding: buffer.bytes(payload), of: header.type)
    let count = pageByteCount(of: header)
    let body = payload.lowerBound + WireLimits.packedPrefixByteCount..<payload.upperBound
    guard
      Self.unpack(buffer, body, as: prefix.encoding, into: &unpacked, 0..<count, by: &unpacker)
    else { throw .value(header.type, .encoding, found: UInt64(prefix.encoding.rawValue)) }
    if prefix.isDelta {
      let installer = plane.installer
      let isWhole = installer.withStaged(header.run) { base in
        Self.apply(&unpacked, to: base)
      }
      guard isWhole else { return false }
    }
    try prefix.verify(unpacked.bytes(0..<count), of: header.type)
    return true
  }

  private static func apply(_ delta: inout TransferBuffer, to base: RawSpan) {
    var pages = delta.mutableBytes(0..<base.byteCount)
    PageDelta.apply(&pages, to: base)
  }

  // Spans of two properties and a change of a third: apart from `self` they exclude each other not.
  private static func unpack(
    _ packed: borrowing TransferBuffer, _ body: Range<Int>, as encoding: PageEncoding,
    into pages: inout TransferBuffer, _ range: Range<Int>, by unpacker: inout PageUnpacker
  ) -> Bool {
    var room = pages.mutableBytes(range)
    return unpacker.unpack(packed.bytes(body), as: encoding, into: &room)
  }

  private func pageByteCount(of header: FrameHeader) -> Int {
    let shift = plane.installer.map.entry(of: header.run.region).region.pageSize.shift
    return Int(header.run.count.rawValue) << shift
  }

  /// The pages lie in the payload; nil: they were unpacked.
  private func install(_ run: PageRun, _ payload: Range<Int>?) {
    let pages = plane.installer.layout.flatRange(of: run)
    let shift = plane.installer.map.entry(of: run.region).region.pageSize.shift
    var remaining = pages
    var backoff = Backoff()
    repeat {
      // The pages in front are done; their bytes lie in front too.
      let offset = (remaining.lowerBound - pages.lowerBound) << shift
      do throws(UFFDError) {
        let progress: FillProgress
        if let payload {
          progress = try plane.installer.install(
            remaining, from: buffer.bytes(payload.lowerBound + offset..<payload.upperBound),
            .push)
        } else {
          progress = try plane.installer.install(
            remaining, from: unpacked.bytes(offset..<pages.count << shift), .push)
        }
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }

  private func zero(_ run: PageRun) {
    var remaining = plane.installer.layout.flatRange(of: run)
    var backoff = Backoff()
    repeat {
      do throws(UFFDError) {
        let progress = try plane.installer.zeroArrived(remaining)
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }

  private func poison(_ run: PageRun) {
    var remaining = plane.installer.layout.flatRange(of: run)
    var backoff = Backoff()
    repeat {
      do throws(UFFDError) {
        let progress = try plane.installer.poisonArrived(remaining)
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }

  /// Judges one step of a fill; true when another step is due.
  private func goOn(
    _ progress: FillProgress, _ remaining: inout Range<Int>, _ backoff: inout Backoff
  ) -> Bool {
    remaining = progress.remaining
    let isGivenUp = plane.report(progress)
    switch progress.obstacle {
    case nil: return !remaining.isEmpty
    case .retry, .outOfMemory:
      // Retry: the fault thread reads the event that is in the way, and its thread then needs a
      // moment. Out of memory: the page is kept here until there is some; without credit the
      // source soon stops pushing.
      backoff.pause()
      return !isEnding
    case .gone, .noMapping, .noPoison: return !isGivenUp
    }
  }
}
