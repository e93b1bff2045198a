public import Migration
internal import Pages
public import System
internal import UFFD
public import Uring
public import Wire

/// Why a data plane cannot be made.
public enum DataPlaneError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A system call failed.
  case system(SystemError)
  /// io_uring is not to be had.
  case ring(RingError)
  /// `unregister` came while pages are awaited.
  case notComplete(awaitedPageCount: Int)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .system(let error): "fault handler: \(error)"
    case .ring(let error): "fault handler: \(error)"
    case .notComplete(let count):
      "fault handler: \(count) pages are still to come; unregistering now would show zeros"
    }
  }
}

/// The destination's engine: it answers the faults of an attached VM from the source, and installs
/// what the source pushes.
///
/// The fault thread runs as long as the plane lives; links come and go. Without one, faults that
/// need no source are answered, and all others wait for the next link. The thread that made the
/// plane calls its functions and takes its events; none of them blocks but `stop`, and
/// `attachUrgent` while an earlier link is still ending (see `droppedLinks`); and none runs on a
/// thread that a fault waits for.
///
/// The memory it was made for must stay open at least until `stop` has returned.
public final class DestinationDataPlane {
  let parts: PlaneParts
  private let bulkPlacement: ThreadPlacement
  private let nodes: [Int]
  private var faultThread: WorkerThread?
  private var stageThread: WorkerThread?
  private var stageGo: WakeEvent?
  private var urgent: Connection?
  private var bulk: BulkLinks?
  /// Given up, and perhaps still in the middle of a fill.
  private var dropped: [BulkLinks] = []
  private var farewell: WakeEvent?
  private var linkNumber: UInt32 = 0

  /// What it tells the session. The session's thread alone takes from it.
  public var events: DataPlaneEvents { parts.events }

  /// Starts the fault thread. Faults stay in the kernel until `startFaults`.
  ///
  /// - Parameters:
  ///   - ledger: what is known of each page of the image.
  ///   - seeds: where pages go that come before the source's freeze; nil where none may come.
  ///   - heartbeatBudgetNanoseconds: how long nothing may be heard of the source.
  ///   - faultPlacement: where the fault thread runs.
  ///   - bulkPlacement: where the bulk installers run; a processor goes before a node of the
  ///     memory.
  public init(
    memory: borrowing AttachedMemory, ledger: consuming PageLedger<MappedPageStates>,
    session: SessionID, seeds: SeedPlacement? = nil,
    heartbeatBudgetNanoseconds: UInt64 = LinkMonitor.defaultBudgetNanoseconds,
    faultPlacement: ThreadPlacement = ThreadPlacement(isUrgent: true),
    bulkPlacement: ThreadPlacement = ThreadPlacement()
  ) throws(DataPlaneError) {
    let layout = memory.document.layout
    invariant(
      ledger.pageCount == Int(layout.totalPageCount.rawValue),
      "the page states are those of the image")
    self.bulkPlacement = bulkPlacement
    nodes = Self.nodes(of: memory)
    let stage = try Self.translating { () throws(SystemError) -> Stage? in
      guard let seeds else { return nil }
      return seeds.isInPlace
        ? try Stage(layout, inPlace: memory.openSeedFile()) : try Stage(layout)
    }
    let installer = PageInstaller(
      document: memory.document, kinds: memory.memoryKinds, userfault: memory.userfault.handle,
      ledger: ledger, stage: stage)
    parts = try Self.translating { () throws(SystemError) in
      PlaneParts(
        installer: installer, userfault: memory.userfault.handle, events: try DataPlaneEvents(),
        inbox: try PlaneInbox(), heartbeatBudgetNanoseconds: heartbeatBudgetNanoseconds,
        processDescriptor: memory.process.descriptor.rawValue, session: session)
    }
    try startFaultThread(faultPlacement)
  }

  deinit {
    invariant(
      faultThread == nil && bulk == nil && dropped.isEmpty,
      "a data plane is stopped before it goes")
  }

  // MARK: Links

  /// Takes over the urgent connection of a new link, after its handshake; the last link must have
  /// been dropped. What was asked for and not answered is asked for at once. Nothing of an earlier
  /// link is being installed any more when it returns (P3): await that before, on another thread.
  public func attachUrgent(_ connection: Connection) {
    invariant(urgent == nil && bulk == nil, "an old link is dropped before a new one comes")
    awaitDropped()
    linkNumber = parts.events.beginLink()
    urgent = connection
    parts.inbox.post(connection, link: linkNumber)
  }

  /// Takes over all bulk connections of the link and starts their threads. `tellsResidency`: the
  /// source has to hear what is here, because an earlier link has brought some of it.
  public func attachBulk(
    _ connections: [Connection], tellsResidency: Bool
  ) throws(DataPlaneError) {
    invariant(urgent != nil && bulk == nil, "bulk connections follow the urgent one, once")
    let links = BulkLinks(
      number: linkNumber, connections: connections, tellsResidency: tellsResidency)
    bulk = links
    try Self.translating { () throws(SystemError) in
      try links.start(parts, nodes: nodes, placement: bulkPlacement)
    }
  }

  /// Gives the link up: ends its connections. Faults that need no source go on being answered.
  /// Whatever was said on it and not yet taken from `events` is dropped. What a thread has in the
  /// middle is not waited for: the kernel or the fault thread may hold it up for long, and the
  /// session has to hear of it meanwhile. See `droppedLinks`.
  ///
  /// `refusal` is told to the source first, as far as that goes without waiting.
  public func dropLink(telling refusal: Refusal? = nil) {
    _ = parts.events.beginLink()
    let isTelling = refusal.map { tell($0) } ?? false
    let connection = urgent.take()
    // Else the fault thread ends it behind the word.
    if !isTelling { connection?.shutdown() }
    guard let link = bulk.take() else { return }
    if isTelling { link.close() } else { link.end() }
    dropped.append(link)
  }

  /// False when it cannot be said.
  private func tell(_ refusal: Refusal) -> Bool {
    guard urgent != nil, let isOver = try? WakeEvent(),
      parts.inbox.post(.init(refusal: refusal, link: linkNumber, isOver: isOver))
    else { return false }
    farewell = isOver
    return true
  }

  /// What is to be awaited before the next link: on another thread than the session's.
  var droppedLinks: DroppedLinks { DroppedLinks(links: dropped, farewell: farewell) }

  private func awaitDropped() {
    droppedLinks.awaitEnd()
    dropped = []
    farewell = nil
  }

  /// The shortest round trip of a heartbeat; nil before the first.
  public var roundTripNanoseconds: UInt64? { parts.roundTripNanoseconds }

  // MARK: What the session asks for

  /// Answers faults from now on. Only once the source said *frozen* and every stale page is gone:
  /// what is answered before could be wrong. Saying it again is harmless. Nothing is answered when
  /// a stale page stays in the memory: see `DataPlaneEvent.staleInPlace`.
  public func startFaults() throws(DataPlaneError) {
    // Whoever seeds from here on breaks the protocol.
    parts.endSeeds()
    guard !parts.installer.isSeeding else { return }
    parts.inbox.post(.startFaults)
    guard let stage = parts.installer.stage, !stage.isInPlace, stageThread == nil else { return }
    // Made while it can still fail without harm.
    stageThread = try Self.translating { () throws(SystemError) in
      let go = try WakeEvent()
      let installer = StageInstaller(plane: parts, go: go)
      let thread = try WorkerThread(name: "postcopy-stage", placement: bulkPlacement) {
        installer.run()
      }
      stageGo = go
      return thread
    }
  }

  /// Installs what was seeded from now on, beside the faults, which are answered from there as
  /// well; what was seeded in place is there already. Once the VM runs: before, it would only hold
  /// up what the guest's pause is spent on. Behind `startFaults`; saying it again is harmless.
  public func installSeeds() { stageGo?.signal() }

  /// Lets everybody who waits fault again: after a restart nobody knows who they are.
  public func wakeEverybody() { parts.inbox.post(.repeatRequests) }

  /// Sends a control message on the urgent connection; false when too many wait already, which
  /// takes a link that has stood still for long.
  public func send(_ message: ControlMessage) -> Bool { parts.inbox.post(message) }

  /// After `memoryPressure`, when there may be memory again: lets everybody who waits fault again,
  /// and asks again for all that was asked for.
  public func retryAfterMemoryPressure() {
    parts.events.forget(.memoryPressure)
    parts.inbox.post(.repeatRequests)
  }

  /// What was done so far. Takes the fill lock for a moment: a few times a second, not more.
  public func statistics() -> DataPlaneStatistics { parts.installer.statistics() }

  /// Whether no page is missing, asked for or staged.
  public var isComplete: Bool { parts.installer.isComplete }

  /// The state of a page by its flat index.
  func state(ofPage page: Int) -> PageState { parts.installer.state(ofPage: page) }

  /// Unregisters every region, so that the kernel answers what was never here with zeros. Legal
  /// only once everything is here; refused, and nothing done, before. The link goes on: what is
  /// left to say can be said. Done when `stop` returns.
  public func unregister() throws(DataPlaneError) {
    let awaited = parts.installer.unsettledPageCount
    guard awaited == 0 else { throw .notComplete(awaitedPageCount: awaited) }
    parts.inbox.post(.unregister)
  }

  /// Sends what waits to be sent, ends the threads and closes the connections' streams. Memory,
  /// userfaultfd and page states stay as they are: unless `unregister` was asked for, whoever waits
  /// for a page goes on waiting.
  public func stop() {
    parts.inbox.post(.stop)
    // The last words first, then the end of their stream, then that of bulk: a source that sees a
    // bulk connection end has been told why. The fault thread waits for no bulk thread: those hold
    // the fill lock for one step at a time, and end their retries once a stop was asked for.
    faultThread.take()?.join()
    stageGo?.signal()
    stageThread.take()?.join()
    urgent?.endSending()
    if let link = bulk.take() {
      link.end()
      dropped.append(link)
    }
    awaitDropped()
    urgent.take()?.shutdown()
  }

  // MARK: Threads

  private func startFaultThread(_ placement: ThreadPlacement) throws(DataPlaneError) {
    let ring = try OneTimeValue(Self.makeRing(for: parts.installer.layout))
    let parts = parts
    faultThread = try Self.translating { () throws(SystemError) in
      try WorkerThread(name: "postcopy-fault", placement: placement) {
        guard let ring = ring.take() else { return }
        var loop = FaultLoop(ring: ring, plane: parts)
        loop.run()
      }
    }
  }

  /// The nodes that the regions are bound to; empty on a host with one node, or where the VMM has
  /// left it open. COPY takes the page from the node of the region's policy, else from that of the
  /// thread that copies.
  private static func nodes(of memory: borrowing AttachedMemory) -> [Int] {
    guard NumaNodes.count > 1 else { return [] }
    let bound = NumaNodes.boundNodes(
      ofPID: memory.process.identity.pid, at: memory.document.hostBases.map(\.rawValue))
    var nodes: [Int] = []
    for case .some(let node) in bound where !nodes.contains(node) { nodes.append(node) }
    return nodes
  }

  private static func makeRing(for layout: ImageLayout) throws(DataPlaneError) -> Ring {
    do throws(RingError) {
      return try Ring(
        entryCount: ringEntryCount,
        memoryByteCount: FaultLoop.memoryByteCount(for: layout))
    } catch {
      throw .ring(error)
    }
  }

  /// Twice what the fault thread has in flight: polls of four descriptors, a receive and a send.
  private static let ringEntryCount = 16

  private static func translating<Result: ~Copyable>(
    _ body: () throws(SystemError) -> Result
  ) throws(DataPlaneError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
  }
}
