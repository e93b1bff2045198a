internal import Codec
internal import Pages
internal import System
internal import Uring
internal import Wire

/// Owns one bulk connection: seeds; then zero map, device state and pushes, as far as the
/// destination's credit goes.
struct BulkSender: ~Copyable {
  /// Two of the largest frames that a destination sends here, pieces of the resident map.
  private static let receiveByteCount =
    2 * (WireLimits.headerByteCount + WireLimits.maximumResidentMapPayloadByteCount)

  let context: SourceContext
  private let connection: Connection
  private let wake: WakeEvent
  let servingGate: ServingGate
  private let frameGate: FrameGate
  var loader: RunLoader
  var packer: FramePacker
  var packing: PackingRule
  /// Since the last frame of pages: for credit and for the operator's cap.
  private var waitNanoseconds: UInt64 = 0
  var hasher = PageHasher()
  private var received: PageBuffer
  private var filled = 0

  /// Payload bytes of pushed pages that the destination takes in all, and those sent so far.
  private var granted: UInt64 = 0
  private var spent: UInt64 = 0
  private(set) var sequence: UInt32 = 0
  private var isFinished = false
  /// The map, on the first bulk connection until it is done.
  var absentMap: AbsentMap?
  let position: Int
  private var isFirst: Bool { position == 0 }

  init(
    _ context: SourceContext, _ connection: Connection, wake: WakeEvent, servingGate: ServingGate
  ) throws(SystemError) {
    let loader = try RunLoader(context)
    let packer = try FramePacker(
      largestByteCount: RunLoader.largestByteCount(of: context.layout))
    let received = try PageBuffer(byteCount: Self.receiveByteCount)
    self.context = context
    self.connection = connection
    self.wake = wake
    self.servingGate = servingGate
    position = context.addBulk(wake)
    absentMap = position == 0 ? AbsentMap(layout: context.layout) : nil
    frameGate = .session(
      from: .destination, on: .bulk, session: context.session, layout: context.layout)
    self.loader = loader
    self.packer = packer
    packing = PackingRule(context.options.packing)
    self.received = received
  }

  /// The thread's life: until the session stops or the link is lost.
  mutating func run() {
    do throws(LinkFailure) {
      while !context.ended {
        if try !work() {
          packing.paused()
          try waitForNews()
        }
      }
    } catch {
      context.linkLost(.bulk, error)
      // The control thread ends it, behind a word on urgent.
      if error.isPeersFault { return }
    }
    connection.shutdown()
  }

  /// Does the most urgent piece of work; false when there is none now.
  private mutating func work() throws(LinkFailure) -> Bool {
    guard !context.memoryLost, !context.stopping else { return false }
    do throws(ServeError) {
      if try sendSeeds() { return true }
      guard servingGate.current == .open else { return false }
      if isFirst {
        // Nothing of the guest's is read there before its stale pages are gone.
        if try sendLastDiscards() { return true }
        if try sendDeviceState() { return true }
      }
      // Nothing else goes while the guest is paused: where processors are few, a search for what is
      // absent makes the VMM that saves or loads wait for one.
      guard context.pushing, !isFinished else { return false }
      // The map and the push take turns: the map saves pushing what it names. Behind rounds there
      // is mostly little to push, and the guest may wait for it: what is absent is pushed as zeros.
      let pushes = context.options.prefetch != nil
      if isFirst, !(pushes && context.hasSeeds), try sendMapStep(), !pushes { return true }
      guard pushes else { return false }
      try pushRun()
      return true
    } catch {
      switch error {
      case .link(let failure): throw failure
      case .memory(let error):
        context.loseMemory(error)
        return false
      }
    }
  }

  // MARK: Pushing

  private mutating func pushRun() throws(ServeError) {
    guard let (run, won) = context.nextRun() else { return try finishPush() }
    // Pages that somebody else claimed meanwhile split the run.
    var page = 0
    let pageCount = Int(run.count.rawValue)
    while page < pageCount {
      guard won & 1 << UInt32(page) != 0 else {
        page += 1
        continue
      }
      var end = page + 1
      while end < pageCount, won & 1 << UInt32(end) != 0 { end += 1 }
      let part = PageRun(
        region: run.region, start: run.start.advanced(by: PageCount(page)),
        count: PageCount(end - page))
      if try load(part) { try sendLoaded(for: .push) }
      page = end
    }
  }

  private mutating func load(_ run: PageRun) throws(ServeError) -> Bool {
    let gate = servingGate
    do throws(MemoryError) {
      let isOpen = try gate.withState { (state) throws(MemoryError) in
        if state == .open { try loader.load(run) }
        return state == .open
      }
      if isOpen { try context.foundPoison(pageCount: loader.poisonedPageCount) }
      return isOpen
    } catch {
      throw .memory(error)
    }
  }

  /// Sends what was loaded; how many pages that was, from the front on: all of them, unless they
  /// are seeds of a round that was stopped.
  @discardableResult
  mutating func sendLoaded(for purpose: PagePurpose) throws(ServeError) -> Int {
    var page = 0
    let sentEnd = loader.sentEnd(for: purpose)
    while page < loader.pageCount {
      var segment = loader.segment(from: page)
      if purpose == .seed, segment.kind == .poisoned || segment.kind == .same {
        if segment.kind == .same { noteSame(segment) }
        page += segment.pageCount
        continue
      }
      if segment.kind == .content {
        let affordable = try waitForCredit(for: purpose, segment.pageCount)
        if affordable == 0 { return page }
        segment = loader.segment(from: page, limit: affordable)
        spent += UInt64(segment.pageCount * loader.pageByteCount)
      }
      page += segment.pageCount
      // Held back for the next segment only if that need not wait for credit itself.
      let rest = UInt64(max(0, sentEnd - page) * loader.pageByteCount)
      let hasMore = rest > 0 && granted - spent >= rest
      if segment.kind == .content {
        try sendContent(segment, for: purpose, hasMore: hasMore)
      } else {
        if purpose == .seed { noteZeros(segment) }
        let frame = loader.makeFrame(segment, for: purpose, sequence: sequence)
        try transmit(loader.bytes(frame), hasMore: hasMore)
      }
      sequence &+= 1
      context.counters.sentSegment(segment.kind, pageCount: segment.pageCount, for: purpose)
    }
    return page
  }

  /// Sends pages that are no zeros, as what has changed of them or packed where that is faster.
  private mutating func sendContent(
    _ segment: RunSegment, for purpose: PagePurpose, hasMore: Bool
  ) throws(ServeError) {
    let pageByteCount = segment.pageCount * loader.pageByteCount
    let delta = purpose == .seed ? makeDelta(segment) : nil
    if purpose == .seed { noteSeeds(segment, delta) }
    let encoding = delta == nil ? packing.nextEncoding : nil
    let start = MonotonicClock.now()
    var packed = delta
    if let encoding {
      packed = packer.makeFrame(
        loader, segment, for: purpose, sequence: sequence, as: encoding)
    }
    let ready = encoding == nil ? start : MonotonicClock.now()
    let sentByteCount = (packed?.count).map { $0 - WireLimits.headerByteCount } ?? pageByteCount
    context.bandwidth.spend(byteCount: UInt64(sentByteCount), now: ready)
    if let packed {
      try transmit(packer.bytes(packed), hasMore: hasMore)
      context.counters.packed(
        encoding, pageByteCount: pageByteCount, sentByteCount: sentByteCount)
    } else {
      let frame = loader.makeFrame(segment, for: purpose, sequence: sequence)
      try transmit(loader.bytes(frame), hasMore: hasMore)
    }
    guard !packing.isDecided, delta == nil else {
      waitNanoseconds = 0
      return
    }
    let end = MonotonicClock.now()
    packing.sent(
      PackingRule.Frame(
        encoding: encoding, pageByteCount: pageByteCount, sentByteCount: sentByteCount,
        packNanoseconds: ready.nanoseconds(since: start),
        waitNanoseconds: waitNanoseconds + end.nanoseconds(since: ready)), now: end)
    waitNanoseconds = 0
  }

  private mutating func finishPush() throws(ServeError) {
    var frame: [UInt8] = []
    FrameHeader.pushFinished(session: context.session.shortID).appendEncoded(to: &frame)
    try transmit(frame.rawBytes)
    isFinished = true
    // Every page is claimed: what the map would still find is among them.
    absentMap = nil
    context.finishedPush()
  }

  /// Waits until at least one page may be sent; how many. 0 when nobody wants them any more.
  private mutating func waitForCredit(
    for purpose: PagePurpose, _ wantedPageCount: Int
  ) throws(ServeError) -> Int {
    let page = UInt64(loader.pageByteCount)
    let wanted = UInt64(wantedPageCount) * page
    if granted - spent < page {
      context.counters.waitedForCredit()
      while granted - spent < page {
        if isUnwanted(purpose) { return 0 }
        try waitWhileNeeded(until: nil)
      }
    }
    let credit = min(granted - spent, wanted)
    return Int(try waitForRate(page, atMost: credit, purpose) / page)
  }

  private func isUnwanted(_ purpose: PagePurpose) -> Bool {
    purpose == .seed && context.seeds.isStopped
  }

  /// Waits until the operator's cap lets at least one page go; how many bytes then may. A page that
  /// is demanded meanwhile goes on urgent, which knows no cap.
  private mutating func waitForRate(
    _ pageByteCount: UInt64, atMost credit: UInt64, _ purpose: PagePurpose
  ) throws(ServeError) -> UInt64 {
    while true {
      if isUnwanted(purpose) { return 0 }
      let now = MonotonicClock.now()
      let allowance = context.bandwidth.allowance(
        pageByteCount: pageByteCount, wanted: credit, now: now)
      switch allowance {
      case .bytes(let affordable): return min(credit, affordable)
      case .nothing(let moment):
        // It is we who hold back, and not the destination: that is said now and then.
        if purpose == .seed { context.seeds.noteProgress() }
        try waitWhileNeeded(
          until: min(moment, now.advanced(byNanoseconds: Self.rateLookNanoseconds)))
      }
    }
  }

  /// Far below what a seeder waits for a destination that takes nothing in.
  private static let rateLookNanoseconds: UInt64 = 10_000_000_000

  private mutating func waitWhileNeeded(until moment: Instant?) throws(ServeError) {
    let start = MonotonicClock.now()
    do throws(LinkFailure) {
      try waitForNews(until: moment)
    } catch {
      throw .link(error)
    }
    waitNanoseconds += MonotonicClock.now().nanoseconds(since: start)
    // The loss that this makes is not told: we end the links ourselves.
    guard context.stopping else { return }
    throw .link(
      .connection(ConnectionError(.shutDownHere, "credit", peer: connection.peer.description)))
  }

  // MARK: The connection

  /// Waits for a frame of the destination, the end of the stream, a wake-up by the session, or a
  /// moment.
  private mutating func waitForNews(until moment: Instant? = nil) throws(LinkFailure) {
    let connection = connection
    do throws(ConnectionError) {
      switch try connection.waitReadable(or: wake, until: moment) {
      case .event:
        wake.drain()
        return
      case .readable: break
      case .deadline: return
      }
      var room = received.mutableBytes(filled..<received.byteCount)
      filled += try connection.tryReceive(into: &room) ?? 0
    } catch {
      throw .connection(error)
    }
    do throws(WireError) {
      try takeFrames()
    } catch {
      throw .violation(error)
    }
    if let refusal { throw .refused(refusal) }
  }

  /// What the destination gave the session up with, if it did.
  private var refusal: Refusal?

  private mutating func takeFrames() throws(WireError) {
    var start = 0
    while case .frame(let header) = try frameGate.next(in: received.bytes(start..<filled)) {
      let payload = start + WireLimits.headerByteCount..<start + header.frameByteCount
      switch header.type {
      case .refuse:
        let reason = try Refusal(decoding: received.bytes(payload))
        refusal = reason
      case .seedRoundApplied:
        let round = try SeedRound.number(in: received.bytes(payload), of: header.type)
        try context.seeds.applied(round, on: position)
      case .residentMap:
        try context.takeResidentMap(
          received.bytes(payload), isLast: header.flags.contains(.last))
      default:
        // The gate admits nothing else: a credit. The larger one counts.
        let total = try Credit.total(in: received.bytes(payload)).rawValue
        granted = max(granted, total)
        context.seeds.granted(total: granted, on: position)
      }
      start += header.frameByteCount
    }
    if start > 0 {
      received.moveToFront(start..<filled)
      filled -= start
    }
  }

  func transmit(_ bytes: RawSpan, hasMore: Bool = false) throws(ServeError) {
    do throws(ConnectionError) {
      try connection.send(bytes, hasMore: hasMore)
    } catch {
      throw .link(.connection(error))
    }
    context.counters.sentBulk(byteCount: bytes.byteCount)
  }
}
