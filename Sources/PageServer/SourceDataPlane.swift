internal import Migration
internal import Pages
internal import Prefetch
internal import System
internal import Uring
internal import Wire

/// How the source's data path works.
struct SourceOptions: Sendable {
  var prefetch: PrefetchKind?
  /// What all bulk connections together may send.
  var bandwidth: BandwidthLimit
  var packing = Packing.automatic
  var sentSeeds = SentSeeds(deltaCacheByteCount: 0)
  var hasPayloadChecksums: Bool
  var heartbeatBudgetNanoseconds: UInt64
  var busyPollNanoseconds: UInt64
  var hostHasRoom: @Sendable () -> Bool
  var urgentPlacement: ThreadPlacement
  var bulkPlacement: ThreadPlacement
}

extension SourceOptions {
  /// For how many of our threads there are processors, as far as their places tell.
  var processorCount: Int {
    let urgent = urgentPlacement.processor
    guard let bulk = bulkPlacement.processor else { return HostProcessors.allowedCount() }
    // Whoever may run anywhere may find itself on theirs, where they cannot go away.
    return urgent == nil || urgent == bulk ? 1 : Int.max
  }
}

/// The source's data path for one link of a session: one urgent thread and one thread for each bulk
/// connection, which serve and push the frozen memory. It decides nothing about the session: one
/// control thread calls it and takes its notices.
///
/// ```
///   control thread ── send, beginServing, beginPush, sendDeviceState, stop ──▶ urgent, bulk
///   threads
///         ▲                                                                         │
///         └───────────────────────────── events ───────────────────────────────────┘
/// ```
///
/// All calls but `counts` and `sendDeviceState` are for the control thread alone. `stop` must be
/// called in the end.
final class SourceDataPlane: Sendable {
  /// How long `stop` lets the urgent thread send what was given to it: above its wait for the
  /// peer's close, below what an operator takes for a hang.
  private static let stopNanoseconds: UInt64 = 3_000_000_000

  /// How long `cut` lets the urgent thread get to its order: it may be in a send that takes until
  /// the connection is shut down.
  private static let cutNanoseconds: UInt64 = 100_000_000

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
  ///
  /// - Parameters:
  ///   - prefetch: what to push next; nil pushes nothing.
  ///   - packing: whether pages are packed on bulk.
  ///   - sentSeeds: what is remembered of seeds, over all links of the session.
  ///   - hasPayloadChecksums: whether pages carry a CRC-32C: unless TLS below vouches for the
  ///     bytes.
  ///   - bandwidth: what all bulk connections together may send, over all links of the session.
  ///     Urgent pages are never held back.
  ///   - counters: what is counted over all links of the session.
  ///   - isReturn: whether the destination has been here before: it then tells first what it holds,
  ///     on bulk, and nothing is pushed until it has.
  ///   - heartbeatBudgetNanoseconds: how long nothing may be heard of the destination.
  ///   - busyPollNanoseconds: how long the urgent thread looks for the next request before it
  ///     sleeps, at most.
  ///   - hostHasRoom: whether the host has a processor that nobody else wants.
  ///   - urgentPlacement: where the urgent thread runs.
  ///   - bulkPlacement: where the bulk threads run.
  init(
    backing: any MemoryBacking, layout: ImageLayout, session: SessionID, prefetch: PrefetchKind?,
    bandwidth: BandwidthLimit = BandwidthLimit(bytesPerSecond: nil),
    packing: Packing = .automatic,
    sentSeeds: SentSeeds = SentSeeds(deltaCacheByteCount: 0),
    hasPayloadChecksums: Bool = true,
    counters: SourceCounters = SourceCounters(),
    isReturn: Bool = false,
    heartbeatBudgetNanoseconds: UInt64 = LinkMonitor.defaultBudgetNanoseconds,
    busyPollNanoseconds: UInt64 = 0,
    hostHasRoom: @escaping @Sendable () -> Bool = HostProcessors.haveRoom,
    urgentPlacement: ThreadPlacement = ThreadPlacement(isUrgent: true),
    bulkPlacement: ThreadPlacement = ThreadPlacement()
  ) throws(SystemError) {
    context = try SourceContext(
      layout: layout, backing: backing, session: session,
      options: SourceOptions(
        prefetch: prefetch, bandwidth: bandwidth, packing: packing,
        sentSeeds: sentSeeds, hasPayloadChecksums: hasPayloadChecksums,
        heartbeatBudgetNanoseconds: heartbeatBudgetNanoseconds,
        busyPollNanoseconds: busyPollNanoseconds, hostHasRoom: hostHasRoom,
        urgentPlacement: urgentPlacement, bulkPlacement: bulkPlacement),
      counters: counters, isReturn: isReturn)
    outgoing = try Mailbox(capacity: UrgentServer.outgoingCapacity)
  }

  /// What happened, in order; wait for its `readiness` beside other things.
  var events: Mailbox<SourceNotice> { context.notices }

  /// What was done so far. For any thread.
  func counts() -> SourceCounts { context.counters.counts() }

  /// Takes over the urgent connection after its handshake and starts its thread. Once.
  func attachUrgent(_ connection: Connection) throws(SystemError) {
    try links.withLock { links throws(SystemError) in
      invariant(links.urgent == nil && !links.isStopped, "a link has one urgent connection")
      let link = try UrgentLink(context, connection, outgoing, serving: links.serving)
      links.urgent = link
    }
  }

  /// Takes over a bulk connection after its handshake and starts its thread. The first one carries
  /// the zero map and the device state.
  func attachBulk(_ connection: Connection) throws(SystemError) {
    try links.withLock { links throws(SystemError) in
      invariant(
        !links.isStopped && links.bulk.count < WireLimits.maximumBulkConnectionCount,
        "bulk connections are attached within their bound")
      links.bulk.append(try BulkLink(context, connection, serving: links.serving))
    }
  }

  /// The shortest round trip of this link; nil before the first heartbeat was answered.
  var roundTripNanoseconds: UInt64? { context.roundTripNanoseconds }

  /// This link's part in the rounds of seeds.
  var seeds: SeedFeed { context.seeds }

  /// Sends these pages, of a VM that runs, on all bulk connections, and names the seeds of others
  /// as stale behind them. For the seeder's thread.
  func beginSeedRound(_ round: UInt64, _ pages: PageBitmap, naming stale: PageBitmap? = nil) {
    context.beginSeeds()
    context.seeds.begin(
      round: round, pages, naming: stale, connectionCount: context.bulkCount)
    wakeBulk()
  }

  /// Sends nothing more of the round; its end is awaited as before. For the seeder's thread.
  func stopSeedRound() {
    context.seeds.stop()
    wakeBulk()
  }

  /// The VM is stopped. Names the seeds that are stale and were not named yet, on bulk, as soon as
  /// demands are answered, and pushes none of those that are fresh. For any thread, before
  /// `beginServing`.
  func discard(_ stale: PageBitmap, keeping fresh: PageBitmap) {
    context.claims.reset(to: fresh)
    context.counters.unsettle()
    context.counters.claimed(pageCount: fresh.setCount)
    if stale.setCount > 0 { context.discards.withLock { $0 = stale } }
  }

  /// The VM is stopped and its memory final (`MemoryBacking.markFrozen` has passed): answers
  /// demands and tells absent memory from here on. Call it before `frozen` is sent.
  func beginServing() { setGates(.open) }

  /// The memory is about to change, or to go away: when this returns, nothing reads it any more,
  /// and requests go unanswered.
  func endServing() { setGates(.closed) }

  /// Pushes pages on every bulk connection, as far as credit goes; `pushFinished` tells the end.
  func beginPush() {
    context.beginPush()
    wakeBulk()
  }

  /// Sends the VM's device state on the first bulk connection, ahead of whatever of the zero map
  /// and of pushes is not on its way yet. For any thread.
  func sendDeviceState(_ state: [UInt8]) {
    invariant(
      state.count <= WireLimits.maximumDeviceStateByteCount, "device state keeps its bound")
    context.deviceState.withLock { $0 = state }
    wakeBulk()
  }

  /// Sends a control message on the urgent connection, after those given before; false when too
  /// many wait already because the peer takes none.
  func send(_ message: ControlMessage) -> Bool {
    outgoing.post(.control(message), leaving: 1)
  }

  /// Ends all connections and threads; what was given to `send` goes out first, and then
  /// `refusal`, so that the peer knows why, within a limit. Blocks up to about three seconds, if
  /// the peer does not close its end. May be repeated.
  func stop(telling refusal: Refusal? = nil) {
    let (urgent, bulk) = takeLinks()
    // Urgent first: the end of a bulk connection must not overtake the last word on urgent, or the
    // peer takes a session that ended well for a lost link.
    if let urgent {
      // No room means that the peer takes nothing: it will not be told.
      if let refusal { _ = outgoing.post(.refuse(refusal), leaving: 1) }
      let isTold = outgoing.post(.stop)
      invariant(isTold, "a place is kept for the order to stop")
      urgent.finish(
        until: MonotonicClock.now().advanced(byNanoseconds: Self.stopNanoseconds))
    }
    end(bulk)
  }

  /// Ends all connections and threads of a link that is of no use any more; nothing more is sent.
  /// What the destination had said on the urgent connection is among the events then: the end of
  /// another connection may have been seen before it. Waits for a read of memory that is under way,
  /// and for nothing else. `refusal` is told to the destination, as far as that goes meanwhile.
  func cut(telling refusal: Refusal? = nil) {
    let (urgent, bulk) = takeLinks()
    if let urgent {
      // No room means that the peer takes nothing: it will not be told.
      if let refusal { _ = outgoing.post(.refuse(refusal), leaving: 1) }
      let isTold = outgoing.post(.cut)
      invariant(isTold, "a place is kept for the order to stop")
      urgent.finish(until: MonotonicClock.now().advanced(byNanoseconds: Self.cutNanoseconds))
    }
    end(bulk)
  }

  private func takeLinks() -> (UrgentLink?, [BulkLink]) {
    let taken = links.withLock { links in
      links.isStopped = true
      defer {
        links.urgent = nil
        links.bulk = []
      }
      return (links.urgent, links.bulk)
    }
    context.beginStopping()
    context.seeds.end()
    return taken
  }

  private func end(_ bulk: [BulkLink]) {
    context.end()
    bulk.forEach { $0.stop() }
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

  /// The cap of the bandwidth has changed: whoever waits under the old one looks again. For any
  /// thread.
  func bandwidthChanged() { wakeBulk() }

  private func wakeBulk() { context.wakeBulk() }
}
