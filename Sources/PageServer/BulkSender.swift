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

  private let context: SourceContext
  private let connection: Connection
  private let wake: WakeEvent
  private let servingGate: ServingGate
  private let frameGate: FrameGate
  private var loader: RunLoader
  private var received: PageBuffer
  private var filled = 0

  /// Payload bytes of pushed pages that the destination takes in all, and those sent so far.
  private var granted: UInt64 = 0
  private var spent: UInt64 = 0
  private var sequence: UInt32 = 0
  private var isFinished = false
  /// The map, on the first bulk connection until it is done.
  private var absentMap: AbsentMap?
  private let position: Int
  private var isFirst: Bool { position == 0 }

  init(
    _ context: SourceContext, _ connection: Connection, wake: WakeEvent, servingGate: ServingGate
  ) throws(SystemError) {
    let loader = try RunLoader(context)
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
    self.received = received
  }

  /// The thread's life: until the session stops or the link is lost.
  mutating func run() {
    do throws(LinkFailure) {
      while !context.ended {
        if try !work() { try waitForNews() }
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
        if try sendDiscards() { return true }
        // Once it is ready it waits for no more than the step that is under way: every moment is
        // the guest's pause. While the VMM saves it the map goes, of which each entry that is told
        // in time is a fault that stays local.
        if try sendDeviceState() { return true }
        // The rest of the map and the push take turns: the map saves pushing what it names. Behind
        // rounds there is mostly little to push, and the guest may wait for it: what is absent is
        // pushed as zeros.
        let isMapOfUse = !(context.pushing && context.hasSeeds)
        if isMapOfUse, try sendMapStep(), !context.pushing { return true }
      }
      guard context.pushing, !isFinished else { return false }
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

  // MARK: Seeds

  /// Sends a run of the round, or its end; false when there is neither.
  private mutating func sendSeeds() throws(ServeError) -> Bool {
    if let run = context.seeds.next() {
      do throws(MemoryError) {
        // The VM runs: what is read here is a copy that nobody changes any more, and what is
        // written meanwhile is in the log.
        try loader.load(run)
      } catch {
        throw .memory(error)
      }
      let flat = context.layout.flatRange(of: run)
      let sentCount = try sendLoaded(for: .seed)
      context.seeds.skip(flat.lowerBound + sentCount..<flat.upperBound)
      for page in loader.poisonedPages {
        context.seeds.skip(flat.lowerBound + page..<flat.lowerBound + page + 1)
      }
      return true
    }
    guard let round = context.seeds.takeEnd(on: position) else { return false }
    try transmit(SeedRound.endFrame(round, session: context.session.shortID).rawBytes)
    return true
  }

  /// Names the stale seeds, all of them; false when there are none.
  private func sendDiscards() throws(ServeError) -> Bool {
    guard let stale = context.discards.withLock({ $0.take() }) else { return false }
    var runs: [PageRun] = []
    var left = stale.setCount
    for region in context.layout.regions {
      let first = context.layout.flatIndex(
        of: PageID(region: region.index, page: PageIndex(rawValue: 0)))
      let end = first + Int(region.pageCount.rawValue)
      var flat = first
      while let run = stale.nextRun(from: flat, before: end, limit: end - first) {
        runs.append(
          PageRun(
            region: region.index, start: PageIndex(run.lowerBound - first),
            count: PageCount(run.count)))
        flat = run.upperBound
        left -= run.count
        guard runs.count == WireLimits.maximumZeroMapRunCount || left == 0 else { continue }
        let frame = RunMap.discard.encodedFrame(
          runs[...], isLast: left == 0, session: context.session.shortID)
        try transmit(frame.rawBytes)
        runs.removeAll(keepingCapacity: true)
      }
    }
    return true
  }

  // MARK: Map and device state

  /// Searches a while and sends what was found; false when the map is done.
  private mutating func sendMapStep() throws(ServeError) -> Bool {
    guard var map = absentMap.take() else { return false }
    let isOpen: Bool
    do throws(MemoryError) {
      isOpen = try servingGate.withState { (state) throws(MemoryError) in
        if state == .open { try map.step(context.backing) }
        return state == .open
      }
    } catch {
      throw .memory(error)
    }
    guard isOpen else { return false }
    while !map.runs.isEmpty {
      let runs = map.takeFrame()
      for run in runs {
        let claimed = context.claims.claim(context.layout.flatRange(of: run))
        context.counters.toldAbsent(pageCount: claimed)
        context.counters.claimed(pageCount: claimed)
      }
      try transmit(RunMap.zero.encodedFrame(runs[...], session: context.session.shortID).rawBytes)
    }
    if !map.isFinished { absentMap = map }
    return true
  }

  private func sendDeviceState() throws(ServeError) -> Bool {
    guard let state = context.deviceState.withLock({ $0.take() }) else { return false }
    var start = 0
    repeat {
      let end = min(start + WireLimits.maximumControlPayloadByteCount, state.count)
      let piece = state.span.extracting(start..<end)
      let payload = RawSpan(_elements: piece)
      var frame: [UInt8] = []
      FrameHeader.payload(
        .deviceState, isLast: end == state.count, session: context.session.shortID, payload
      ).appendEncoded(to: &frame)
      try transmit(frame.rawBytes, hasMore: end > start)
      if end > start { try transmit(payload) }
      start = end
    } while start < state.count
    return true
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
  private mutating func sendLoaded(for purpose: PagePurpose) throws(ServeError) -> Int {
    var page = 0
    while page < loader.pageCount {
      var segment = loader.segment(from: page)
      if segment.kind == .poisoned, purpose == .seed {
        page += segment.pageCount
        continue
      }
      if segment.kind == .content {
        let affordable = try waitForCredit(for: purpose)
        if affordable == 0 { return page }
        segment = loader.segment(from: page, limit: affordable)
        let byteCount = UInt64(segment.pageCount * loader.pageByteCount)
        spent += byteCount
        context.bandwidth.spend(byteCount: byteCount, now: MonotonicClock.now())
      }
      if purpose == .seed { noteSeeds(segment) }
      page += segment.pageCount
      // Held back for the next segment only if that need not wait for credit itself.
      let rest = UInt64((loader.pageCount - page) * loader.pageByteCount)
      let frame = loader.makeFrame(segment, for: purpose, sequence: sequence)
      sequence &+= 1
      try transmit(
        loader.bytes(frame), hasMore: rest > 0 && granted - spent >= rest)
      context.counters.sentSegment(segment.kind, pageCount: segment.pageCount, for: purpose)
    }
    return page
  }

  /// Before they are sent: what is told of them must find them noted.
  private func noteSeeds(_ segment: RunSegment) {
    let byteCount = segment.kind == .content ? segment.pageCount * loader.pageByteCount : 0
    context.seeds.sending(
      loader.flatRange(of: segment), byteCount: UInt64(byteCount), on: position)
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
  private mutating func waitForCredit(for purpose: PagePurpose) throws(ServeError) -> Int {
    let page = UInt64(loader.pageByteCount)
    if granted - spent < page {
      context.counters.waitedForCredit()
      while granted - spent < page {
        if isUnwanted(purpose) { return 0 }
        try waitWhileNeeded(until: nil)
      }
    }
    return Int(min(try waitForRate(page, atMost: granted - spent, purpose) / page, 1 << 20))
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
      switch context.bandwidth.allowance(pageByteCount: pageByteCount, now: now) {
      case .bytes(let affordable): return min(credit, affordable)
      case .nothing(let moment):
        // It is we who hold back, and not the destination.
        if purpose == .seed { context.seeds.noteProgress() }
        try waitWhileNeeded(until: moment)
      }
    }
  }

  private mutating func waitWhileNeeded(until moment: Instant?) throws(ServeError) {
    do throws(LinkFailure) {
      try waitForNews(until: moment)
    } catch {
      throw .link(error)
    }
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

  private func transmit(_ bytes: RawSpan, hasMore: Bool = false) throws(ServeError) {
    do throws(ConnectionError) {
      try connection.send(bytes, hasMore: hasMore)
    } catch {
      throw .link(.connection(error))
    }
    context.counters.sentBulk(byteCount: bytes.byteCount)
  }
}
