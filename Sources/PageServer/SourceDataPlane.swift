public import Pages
public import Prefetch
public import System
public import Uring
public import Wire

/// How the source's data path works.
public struct SourceOptions: Sendable {
  /// What to push next.
  public var prefetch: PrefetchKind
  /// Whether pages carry a CRC-32C: yes unless TLS below vouches for the bytes.
  public var hasPayloadChecksums: Bool
  /// Where the urgent thread runs.
  public var urgentPlacement: ThreadPlacement
  /// Where the bulk threads run.
  public var bulkPlacement: ThreadPlacement
  /// How long after the freeze the search for absent memory goes before the device state. The guest
  /// stands still meanwhile; each absent page that the map names in time is a fault that stays
  /// local. 10 ms find every hole of a 6 GiB memfd, and are a fifth of a good downtime.
  public var mapFirstNanoseconds: UInt64

  /// Options with all their parts.
  public init(
    prefetch: PrefetchKind = .bubbling, hasPayloadChecksums: Bool = true,
    urgentPlacement: ThreadPlacement = ThreadPlacement(isUrgent: true),
    bulkPlacement: ThreadPlacement = ThreadPlacement(), mapFirstNanoseconds: UInt64 = 10_000_000
  ) {
    self.prefetch = prefetch
    self.hasPayloadChecksums = hasPayloadChecksums
    self.urgentPlacement = urgentPlacement
    self.bulkPlacement = bulkPlacement
    self.mapFirstNanoseconds = mapFirstNanoseconds
  }
}

/// The source's data path for one session: one urgent thread and one thread for each bulk
/// connection, which serve and push the frozen memory. It decides nothing about the session: one
/// control thread calls it and takes its notices.
///
/// ```
///   control thread ── send, beginServing, beginPush, sendDeviceState, stop ──▶ urgent, bulk threads
///         ▲                                                                         │
///         └───────────────────────────── notices ──────────────────────────────────┘
/// ```
///
/// All calls but `counters` are for the control thread alone. `stop` must be called in the end.
public final class SourceDataPlane: Sendable {
  /// How long `stop` lets the urgent thread send what was given to it: above its wait for the
  /// peer's close, below what an operator takes for a hang.
  private static let stopNanoseconds: UInt64 = 3_000_000_000

  private let context: SourceContext
  private let outgoing: Mailbox<OutgoingMessage>
  private let links = Lock(Links())

  private struct Links {
    var urgent: UrgentLink?
    var bulk: [BulkLink] = []
    var serving = ServingGate.State.notYet
    var isStopped = false
  }

  /// A data path for an image that lies in `backing` (`MemoryBacking.validate` has passed).
  public init(
    layout: ImageLayout, backing: any MemoryBacking, session: SessionID,
    options: SourceOptions = SourceOptions()
  ) throws(SystemError) {
    context = try SourceContext(
      layout: layout, backing: backing, session: session, options: options)
    outgoing = try Mailbox(capacity: UrgentServer.outgoingCapacity)
  }

  /// What happened, in order; wait for its `readiness` beside other things.
  public var notices: Mailbox<SourceNotice> { context.notices }

  /// What was done so far. For any thread.
  public var counters: SourceCounters { context.counters }

  /// Takes over the urgent connection after its handshake and starts its thread. Once a session.
  public func attachUrgent(_ connection: Connection) throws(SystemError) {
    try links.withLock { links throws(SystemError) in
      invariant(links.urgent == nil && !links.isStopped, "a session has one urgent connection")
      let link = try UrgentLink(context, connection, outgoing, serving: links.serving)
      links.urgent = link
    }
  }

  /// Takes over a bulk connection after its handshake and starts its thread. The first one carries
  /// the zero map and the device state. All of them before `beginPush`.
  public func attachBulk(_ connection: Connection) throws(SystemError) {
    try links.withLock { links throws(SystemError) in
      invariant(
        !context.pushing && !links.isStopped
          && links.bulk.count < WireLimits.maximumBulkConnectionCount,
        "bulk connections are attached before the push, within their bound")
      links.bulk.append(try BulkLink(context, connection, serving: links.serving))
    }
  }

  /// The VM is stopped and its memory final: answers demands and tells absent memory from here on.
  /// Call it before `frozen` is sent.
  public func beginServing() throws(MemoryError) {
    try context.backing.markFrozen()
    setGates(.open)
  }

  /// The memory is about to change, or to go away: when this returns, nothing reads it any more,
  /// and requests go unanswered.
  public func endServing() { setGates(.closed) }

  /// Pushes pages on every bulk connection, as far as credit goes; `pushFinished` tells the end.
  public func beginPush() {
    context.beginPush()
    wakeBulk()
  }

  /// Sends the VM's device state on the first bulk connection, after the first part of the zero map
  /// and ahead of any push.
  public func sendDeviceState(_ state: [UInt8]) {
    invariant(
      state.count <= WireLimits.maximumDeviceStateByteCount, "device state keeps its bound")
    context.deviceState.withLock { $0 = state }
    wakeBulk()
  }

  /// Sends a control message on the urgent connection, after those given before; false when too
  /// many wait already because the peer takes none.
  public func send(_ message: ControlMessage) -> Bool {
    outgoing.post(.control(message), leaving: 1)
  }

  /// Tells the peer why the session ends, after what was given before. False as in `send`.
  public func refuse(_ refusal: Refusal) -> Bool {
    outgoing.post(.refuse(refusal), leaving: 1)
  }

  /// Ends all connections and threads; what was given to `send` goes out first, within a limit.
  /// Blocks up to about three seconds, if the peer does not close its end. May be repeated.
  public func stop() {
    let (urgent, bulk) = links.withLock { links in
      links.isStopped = true
      defer {
        links.urgent = nil
        links.bulk = []
      }
      return (links.urgent, links.bulk)
    }
    context.beginStopping()
    bulk.forEach { $0.stop() }
    if let urgent {
      _ = outgoing.post(.stop)
      urgent.finish(
        until: MonotonicClock.now().advanced(byNanoseconds: Self.stopNanoseconds))
    }
    bulk.forEach { $0.join() }
  }

  private func setGates(_ state: ServingGate.State) {
    let gates = links.withLock { links in
      links.serving = state
      return links.bulk.map(\.servingGate) + (links.urgent.map { [$0.servingGate] } ?? [])
    }
    gates.forEach { $0.set(state) }
    wakeBulk()
  }

  private func wakeBulk() {
    let bulk = links.withLock { $0.bulk }
    bulk.forEach { $0.wake.signal() }
  }
}
