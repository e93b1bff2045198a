internal import Codec
internal import Migration
internal import Pages
internal import System
internal import Uring
internal import Wire

/// What the control thread gives to the urgent thread.
enum OutgoingMessage: Sendable {
  case control(ControlMessage)
  case refuse(Refusal)
  /// Send what waits, then end in good order.
  case stop
  /// The link is of no use any more: hear what the peer has said already, and end.
  case cut
}

/// Owns the urgent connection: answers requests straight from the frozen memory, ahead of
/// everything else. Nothing on a request's way allocates, logs, or takes a lock of another thread.
struct UrgentServer: ~Copyable {
  /// Control messages that may wait to be sent; a hand-over has a dozen.
  static let outgoingCapacity = 64
  /// Half a thousand requests at once; above the largest frame that a destination may send here.
  private static let receiveByteCount = 16_384
  /// A peer that takes nothing for so long is gone.
  private static let sendLimitNanoseconds: UInt64 = 10_000_000_000
  /// How long a peer may take to close its end once all is said.
  private static let lingerNanoseconds: UInt64 = 1_000_000_000

  private let context: SourceContext
  private let connection: Connection
  private let outgoing: Mailbox<OutgoingMessage>
  private let servingGate: ServingGate
  private let frameGate: FrameGate
  private var loader: RunLoader
  private var received: PageBuffer
  private var filled = 0
  private var monitor: LinkMonitor
  /// Nothing was heard for the budget, at the last look.
  private var isLinkDoubted = false
  private var busyPoll: BusyPollWindow
  private let processorCount: Int
  /// When the last request was answered.
  private var lastAnswer: Instant
  private var isLooking = false

  init(
    _ context: SourceContext, _ connection: Connection, outgoing: Mailbox<OutgoingMessage>,
    servingGate: ServingGate
  ) throws(SystemError) {
    let loader = try RunLoader(context)
    let received = try PageBuffer(byteCount: Self.receiveByteCount)
    self.context = context
    self.connection = connection
    self.outgoing = outgoing
    self.servingGate = servingGate
    frameGate = .session(
      from: .destination, on: .urgent, session: context.session, layout: context.layout)
    self.loader = loader
    self.received = received
    monitor = LinkMonitor(
      budgetNanoseconds: context.options.heartbeatBudgetNanoseconds, now: MonotonicClock.now(),
      firstWordNanoseconds: LinkMonitor.setupNanoseconds)
    busyPoll = BusyPollWindow(maximumNanoseconds: context.options.busyPollNanoseconds)
    processorCount = context.options.processorCount
    lastAnswer = MonotonicClock.now()
  }

  /// The thread's life: until `stop` or `cut` is taken out of the queue.
  mutating func run() {
    var isCut = false
    do throws(LinkFailure) {
      isCut = try serve()
    } catch {
      // Told before the peer can know: when it comes again because of this, the reason is there.
      context.linkLost(.urgent, error)
      // Nothing goes out on a connection that failed: the peer is to see its end at once.
      switch error {
      case .connection, .silent: connection.shutdown()
      case .violation, .refused, .flooded: break
      }
      isCut = sendRemaining()
    }
    if isCut { connection.shutdown() } else { finish() }
  }

  /// Whether the link was cut.
  private mutating func serve() throws(LinkFailure) -> Bool {
    while true {
      switch try waitForWork() {
      case .event:
        while let message = outgoing.take() {
          switch message {
          case .stop: return false
          case .cut:
            hearLastWords()
            return true
          case .control, .refuse: try send(message)
          }
        }
      case .readable:
        try receive()
        try watchLink()
      // Nothing waits to be received, so nothing can speak for the peer.
      case .deadline: try watchLink()
      }
    }
  }

  /// Takes in what the peer has said already on a link that is being given up.
  private mutating func hearLastWords() {
    do throws(LinkFailure) {
      while try receive() {}
    } catch {
      // Its end, most often; whatever it is, the link has ended already for those who count.
    }
  }

  /// Sends a heartbeat that is due; gives up a link on which nothing was heard.
  private mutating func watchLink() throws(LinkFailure) {
    switch monitor.tick(now: MonotonicClock.now()) {
    case .nothing: break
    case .ping(let sequence): try send(.control(.ping(sequence: sequence)))
    case .lost:
      // A thread that was stopped behind its last look, or not scheduled, looks first at what has
      // come meanwhile; the next wait is over at once.
      guard isLinkDoubted else {
        isLinkDoubted = true
        return
      }
      throw .silent(budgetNanoseconds: monitor.budgetNanoseconds)
    }
  }

  private mutating func waitForWork() throws(LinkFailure) -> Connection.Wakeup {
    do throws(ConnectionError) {
      let start = MonotonicClock.now()
      let found = try lookForWork(from: start)
      isLooking = found == .readable
      guard found == .deadline else { return found }
      let asleep = MonotonicClock.now()
      let wakeup = try connection.waitReadable(or: outgoing.readiness, until: monitor.nextTick)
      busyPoll.note(sleptNanoseconds: MonotonicClock.now().nanoseconds(since: asleep))
      return wakeup
    } catch {
      throw .connection(error)
    }
  }

  /// Looks without sleeping, for as long as that is worth it, unless another thread of ours may
  /// need the processor, for this one goes before it: one that pushes, or the session's before it
  /// has the push begin.
  private mutating func lookForWork(
    from start: Instant
  ) throws(ConnectionError) -> Connection.Wakeup {
    guard context.pushing else { return .deadline }
    if busyPoll.needsPeriod(at: start) {
      busyPoll.beginPeriod(at: start, hasRoom: context.options.hostHasRoom())
    }
    let nanoseconds = busyPoll.lookNanoseconds(at: start)
    guard nanoseconds > 0, processorCount > context.busyBulkCount else { return .deadline }
    let end = min(start.advanced(byNanoseconds: nanoseconds), monitor.nextTick)
    repeat {
      // A deadline that has passed: it looks, and that is all.
      let wakeup = try connection.waitReadable(or: outgoing.readiness, until: start)
      if wakeup != .deadline { return wakeup }
    } while MonotonicClock.now() < end
    return .deadline
  }

  /// After a loss the control thread may still have a last word for the peer; it may get through.
  /// Whether the link was cut.
  private func sendRemaining() -> Bool {
    while let message = outgoing.receive() {
      switch message {
      case .stop: return false
      case .cut: return true
      // What fails here was told already as the loss of the link.
      case .control, .refuse: try? send(message)
      }
    }
    return true
  }

  /// Closes in good order: a peer that has not read all yet must not be met by a reset.
  private mutating func finish() {
    let connection = connection
    connection.endSending()
    let limit = MonotonicClock.now().advanced(byNanoseconds: Self.lingerNanoseconds)
    do throws(ConnectionError) {
      while true {
        var room = received.mutableBytes(0..<received.byteCount)
        _ = try connection.receive(into: &room, until: limit)
      }
    } catch {
      // The end of the stream, a loss or the limit: in each case there is nothing left to wait for.
      connection.shutdown()
    }
  }

  // MARK: Receiving

  /// False when nothing has come.
  @discardableResult
  private mutating func receive() throws(LinkFailure) -> Bool {
    let count: Int?
    let connection = connection
    do throws(ConnectionError) {
      var room = received.mutableBytes(filled..<received.byteCount)
      count = try connection.tryReceive(into: &room)
    } catch {
      throw .connection(error)
    }
    guard let count else { return false }
    let now = MonotonicClock.now()
    monitor.heard(at: now)
    isLinkDoubted = false
    filled += count
    var start = 0
    var hasRequest = false
    while let header = try nextFrame(from: start) {
      try handle(header, at: start, now)
      start += header.frameByteCount
      if header.type == .request { hasRequest = true }
    }
    if hasRequest { noteAnswered(requestAt: now) }
    if start > 0 {
      received.moveToFront(start..<filled)
      filled -= start
    }
    return true
  }

  /// A request that came at that moment, or several, is answered.
  private mutating func noteAnswered(requestAt now: Instant) {
    busyPoll.note(waitedNanoseconds: now.nanoseconds(since: lastAnswer))
    lastAnswer = MonotonicClock.now()
    if isLooking { context.counters.metAwake() }
  }

  private func nextFrame(from start: Int) throws(LinkFailure) -> FrameHeader? {
    do throws(WireError) {
      switch try frameGate.next(in: received.bytes(start..<filled)) {
      case .frame(let header): return header
      case .needsBytes(let byteCount):
        invariant(
          byteCount <= received.byteCount, "the buffer holds the largest frame of a destination")
        return nil
      }
    } catch {
      throw .violation(error)
    }
  }

  private mutating func handle(
    _ header: FrameHeader, at start: Int, _ now: Instant
  ) throws(LinkFailure) {
    // On a link that is being given up nobody waits for an answer, and sending one could block.
    guard header.type != .request else {
      if !context.stopping { try answer(header, now) }
      return
    }
    let payload = start + WireLimits.headerByteCount..<start + header.frameByteCount
    if header.type == .refuse { throw refusal(in: payload) }
    let message: ControlMessage
    do throws(WireError) {
      message = try ControlMessage(decoding: received.bytes(payload), of: header.type)
    } catch {
      throw .violation(error)
    }
    switch message {
    case .ping(let sequence):
      if !context.stopping { try send(.control(.pong(sequence: sequence))) }
    case .pong(let sequence):
      monitor.pong(sequence, now: now)
      context.noteRoundTrip(monitor.shortestRoundTripNanoseconds)
    default: if !context.received(message) { throw .flooded }
    }
  }

  private func refusal(in payload: Range<Int>) -> LinkFailure {
    do throws(WireError) {
      return .refused(try Refusal(decoding: received.bytes(payload)))
    } catch {
      return .violation(error)
    }
  }

  // MARK: Answering

  private mutating func answer(_ header: FrameHeader, _ now: Instant) throws(LinkFailure) {
    // Claimed first: the push need not send what is about to be answered.
    var claimed = 0
    for index in context.layout.flatRange(of: header.run) where context.claims.claim(index) {
      claimed += 1
    }
    context.counters.claimed(pageCount: claimed)
    guard try load(header.run, countingPoison: claimed > 0) else { return }
    let limit = now.advanced(byNanoseconds: Self.sendLimitNanoseconds)
    var page = 0
    while page < loader.pageCount {
      let segment = loader.segment(from: page)
      page += segment.pageCount
      let frame = loader.makeFrame(segment, for: .demand, sequence: header.sequence)
      try transmit(loader.bytes(frame), hasMore: page < loader.pageCount, until: limit)
      context.counters.sentSegment(segment.kind, pageCount: segment.pageCount, for: .demand)
    }
    if !context.hints.post(header.run) { context.counters.droppedHint() }
    context.counters.answered(serviceNanoseconds: MonotonicClock.now().nanoseconds(since: now))
  }

  /// Reads the run; false when it is not to be answered: the memory is lost, or being let go.
  private mutating func load(
    _ run: PageRun, countingPoison: Bool
  ) throws(LinkFailure) -> Bool {
    guard !context.memoryLost else { return false }
    let state: ServingGate.State
    let gate = servingGate
    do throws(MemoryError) {
      state = try gate.withState { (state) throws(MemoryError) in
        if state == .open { try loader.load(run) }
        return state
      }
      if countingPoison, state == .open {
        try context.foundPoison(pageCount: loader.poisonedPageCount)
      }
    } catch {
      context.loseMemory(error)
      return false
    }
    switch state {
    case .open: return true
    case .closed: return false
    // The destination may ask only once it has read `frozen`, which is sent after the gate opens.
    case .notYet: throw .violation(.misplaced(.request, from: .destination, on: .urgent))
    }
  }

  // MARK: Sending

  private func send(_ message: OutgoingMessage) throws(LinkFailure) {
    let frame = encoded(message)
    let limit = MonotonicClock.now().advanced(byNanoseconds: Self.sendLimitNanoseconds)
    try transmit(frame.rawBytes, hasMore: false, until: limit)
  }

  private func encoded(_ message: OutgoingMessage) -> [UInt8] {
    let session = context.session.shortID
    switch message {
    case .control(let message): return message.encodedFrame(session: session)
    case .refuse(let refusal): return refusal.encodedFrame(session: session)
    case .stop, .cut: invariantBroken("the order to stop is not sent")
    }
  }

  private func transmit(
    _ bytes: RawSpan, hasMore: Bool, until limit: Instant
  ) throws(LinkFailure) {
    do throws(ConnectionError) {
      try connection.send(bytes, hasMore: hasMore, until: limit)
    } catch {
      throw .connection(error)
    }
    context.counters.sentUrgent(byteCount: bytes.byteCount)
  }
}
