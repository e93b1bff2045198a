internal import Migration
internal import Pages
internal import System
internal import UFFD
internal import Uring
internal import Wire

/// What the fault thread does: it waits for faults, for answers on the urgent connection and for
/// what the session wants, all in one system call a round.
///
/// A fault's way here: `io_uring_enter` returns with the userfaultfd readable → read + mark → the
/// request goes out with the next `io_uring_enter`, which waits for the answer → COPY, which wakes.
/// Nothing on it allocates, logs, or takes a lock that a faulting thread could hold.
struct FaultLoop: ~Copyable {
  /// The ring's tags.
  enum Tag {
    static let faults = RingTag(rawValue: 1)
    static let urgent = RingTag(rawValue: 2)
    static let inbox = RingTag(rawValue: 3)
    static let process = RingTag(rawValue: 4)
  }

  var ring: Ring
  let plane: PlaneParts
  var messages = UserfaultMessageBuffer()
  var batch = FaultBatch()
  /// Pages to be filled here. Its room is allocated once.
  var pendingFills: [Int] = []
  /// More faults than this read before one could be answered: the rest is woken and faults anew.
  static let maximumPendingFillCount = 1024

  var outbox: RequestOutbox
  var inbound: UrgentInbound
  /// The urgent connection, also after its loss, as long as the ring holds operations on it.
  var connection: Connection?
  var isLinkUp = false
  /// Nothing of the link has been looked at yet.
  var isLinkNew = false
  /// The peer broke the protocol: nothing more is heard of it until the session has ended the link.
  var isDeaf = false
  /// Waits to be sent; the link ends behind it.
  var farewell: PlaneInbox.Farewell?
  /// The link that takes over as soon as the ring has let go of the last one.
  var nextConnection: (Connection, number: UInt32)?
  /// Tells what is said on this link from what was said on the last one.
  var linkNumber: UInt32 = 0
  var monitor: LinkMonitor?
  /// The monitor's verdict, which counts only after one more look at what has come: a process that
  /// was stopped for a while finds it all at once.
  var isLinkDoubted = false
  var requestSequence: UInt32 = 0
  /// Requests did not fit or had no link: when there is room again, all are repeated.
  var hasUnsentRequests = false

  /// Until the session says so, what was read waits in `pendingFills`.
  private(set) var answersFaults = false
  private var isPollingFaults = false
  private var isPollingInbox = false
  private var isPollingProcess = false
  private var isProcessGone = false
  /// Where the repetition of requests, and the search for missing pages, have come; nil: none runs.
  var repeatPosition: Int?
  var sweepPosition: Int?
  /// The session wants the thread to end: what it still has to say goes first, unless the link is
  /// down or takes no more.
  private var isStopping = false
  private var isOver = false

  init(ring: consuming Ring, plane: PlaneParts) {
    self.ring = ring
    self.plane = plane
    inbound = UrgentInbound(plane: plane)
    outbox = RequestOutbox(sealedBase: Self.sealedOutboxBase(for: plane.installer.layout))
    pendingFills.reserveCapacity(Self.maximumPendingFillCount)
  }

  /// The ring's memory: requests, answers, sealed answers, sealed requests.
  static func memoryByteCount(for layout: ImageLayout) -> Int {
    sealedOutboxBase(for: layout) + RequestOutbox.sealedByteCount
  }

  static func sealedOutboxBase(for layout: ImageLayout) -> Int {
    RequestOutbox.byteCount + UrgentInbound.byteCount(for: layout) + UrgentInbound.sealedByteCount
  }

  /// Runs until the session wants the thread to end.
  mutating func run() {
    plane.installer.filling.claimPrecedence()
    defer { plane.installer.filling.giveUpPrecedence() }
    do throws(RingError) {
      try ring.activate()
      var completions = CompletionBatch()
      while !isOver {
        takeOverLink()
        if isLinkNew {
          isLinkNew = false
          // What came along with the handshake is in the TLS session, where no receive finds it.
          try openFrames()
        }
        try queueOperations()
        let mayWait =
          !hasMoreToAsk && !isStopping && !outbox.hasBytesBehindSend && !isLinkDoubted
          // A send that went well has no completion.
          && farewell == nil
        try ring.submitAndWait(
          for: mayWait ? 1 : 0, atMost: mayWait ? nanosecondsToHeartbeat() : nil)
        ring.reap(into: &completions)
        outbox.noteSubmitted(isTaken: ring.unsubmittedCount == 0)
        for position in 0..<completions.count { try handle(completions[position]) }
        outbox.settle()
        endAfterFarewell()
        watchLink()
        // Before the wishes: after `unregister` nothing can be filled any more.
        try fillPending()
        try handleWishes()
        advanceSweeps()
        if isStopping {
          // What was said before the wish to stop, and behind the last look at the messages; and
          // what found no room in the outbox then.
          takeMessages()
          if !isLinkUp || outbox.isEmpty || outbox.isBlocked { isOver = true }
        }
      }
      try ring.cancelAll()
    } catch {
      plane.events.sayOnce(.ringFailed, .ringFailed(error))
      // Should this fail too, the ring stops the process when it goes: the kernel may still write
      // into its memory. The guest then waits, since the VMM keeps the userfaultfd open.
      _ = try? ring.cancelAll()
    }
    farewell?.isOver.signal()
    connection?.leaveRing(betweenRecords: !outbox.hasSealedBytes)
  }

  /// Whether a sweep can go on without waiting for anything.
  private var hasMoreToAsk: Bool {
    guard isLinkUp, outbox.hasRoomForRequests, !outbox.isBlocked else { return false }
    if repeatPosition != nil { return true }
    return sweepPosition != nil && plane.installer.requestedPageCount < plane.sweepWindowPageCount
  }

  private mutating func queueOperations() throws(RingError) {
    if answersFaults, !isPollingFaults {
      try ring.poll(plane.userfault.rawValue, tag: Tag.faults)
      isPollingFaults = true
    }
    // While the outbox is full, messages wait in the inbox; the peer's reading or its end makes
    // room.
    if !isPollingInbox, nextConnection == nil, outbox.hasRoomForMessage || !isLinkUp {
      try ring.poll(plane.inbox.readiness.rawValue, tag: Tag.inbox)
      isPollingInbox = true
    }
    if !isPollingProcess, !isProcessGone, let process = plane.processDescriptor {
      try ring.poll(process, tag: Tag.process)
      isPollingProcess = true
    }
    if isLinkUp, let connection {
      if !isDeaf { try inbound.queueReceive(&ring, from: connection) }
      try queueSend()
    }
  }

  /// Queues what waits in the outbox, sealed where there is TLS.
  mutating func queueSend() throws(RingError) {
    guard let connection else { return }
    do throws(ConnectionError) {
      try outbox.seal(&ring, for: connection)
    } catch {
      return giveUp(.linkLost(.urgent, position: 0, error))
    }
    try outbox.queueSend(&ring, connection.rawDescriptor)
  }

  private mutating func handle(_ completion: Completion) throws(RingError) {
    switch completion {
    case .ready(Tag.faults, _):
      isPollingFaults = false
      try readFaults()
    case .ready(Tag.inbox, _): isPollingInbox = false
    case .ready(Tag.process, _):
      isPollingProcess = false
      isProcessGone = true
      plane.events.sayOnce(.vmmGone, .vmmGone)
    case .ready: outbox.noteWritable()
    case .received(_, let byteCount):
      guard let connection else { invariantBroken("what is received comes on a connection") }
      inbound.noteReceived(byteCount, from: connection)
      isLinkDoubted = false
      monitor?.heard(at: MonotonicClock.now())
      if connection.isSealed { try openFrames() } else { try handleFrames() }
    case .endOfStream:
      inbound.noteEnd()
      loseLink("recv", result: 0)
    case .sendFellShort(_, let byteCount): outbox.noteShort(byteCount)
    case .connectionLost(let tag, let errno), .failed(let tag, let errno):
      // Polling fails only for a descriptor that is no descriptor: a bug of ours.
      invariant(
        tag == Tag.urgent || tag == RequestOutbox.tag, "the ring polls descriptors that are open")
      if tag == Tag.urgent { inbound.noteEnd() } else { outbox.noteShort(0) }
      loseLink(tag == Tag.urgent ? "recv" : "send", result: -errno.rawValue)
    case .cancelled: break
    }
  }

  // MARK: What the session wants

  private mutating func handleWishes() throws(RingError) {
    guard !isPollingInbox else { return }
    takeMessages()
    let wishes = plane.inbox.takeWishes()
    if wishes.contains(.startFaults) {
      answersFaults = true
      try fillPending()
    }
    if wishes.contains(.sweepMissing), isLinkUp { sweepPosition = 0 }
    if wishes.contains(.repeatRequests) { repeatEverything() }
    if wishes.contains(.unregister) { unregister() }
    if wishes.contains(.stop) { isStopping = true }
  }

  /// Asks again for all that was asked for, and lets everybody who waits fault again: whoever waits
  /// for zeros or poison is known nowhere else.
  private mutating func repeatEverything() {
    repeatPosition = 0
    do throws(UFFDError) {
      try plane.installer.wakeEverybody()
    } catch {
      plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
    }
  }

  /// Unregisters, then goes on reading until no thread of the VMM waits in an madvise any more: it
  /// would wait for ever, since the VMM keeps the descriptor open and nobody reads it.
  private mutating func unregister() {
    do throws(UFFDError) {
      guard try plane.installer.unregister() else { return }
      plane.noteUnregistered()
    } catch {
      // A range of the VMM is gone. The others are unregistered, and have threads to be let go.
      plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
    }
    do throws(UFFDError) {
      var backoff = Backoff()
      repeat {
        while try plane.installer.readMessages(into: &messages, batch: &batch) > 0 {}
        guard plane.installer.hasEventsUnderWay() else { return }
        backoff.pause()
      } while true
    } catch {
      // The VMM is gone: nothing of it waits for us.
      plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
    }
  }
}
