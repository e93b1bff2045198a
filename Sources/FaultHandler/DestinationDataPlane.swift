internal import Migration
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
/// Made once both sides have shaken hands on all connections; its threads run from then on. The
/// thread that made it calls its functions and takes its events; none of them blocks but `stop`,
/// and none runs on a thread that a fault waits for.
///
/// The memory it was made for must stay open at least until `stop` has returned.
public final class DestinationDataPlane {
  private let parts: PlaneParts
  private let bulk: [Connection]
  private var faultThread: WorkerThread?
  private var bulkThreads: [JoinOnce] = []

  /// What it tells the session. The session's thread alone takes from it.
  public var events: DataPlaneEvents { parts.events }

  /// Starts the threads: one for faults and the urgent connection, one for each bulk connection.
  /// Faults stay in the kernel until `startFaults`.
  ///
  /// - Parameters:
  ///   - states: a fresh file, one byte for each page of the image, all of them missing.
  ///   - faultPlacement: where the fault thread runs.
  ///   - bulkPlacement: where the bulk installers run; a processor goes before a node of the
  ///     memory.
  public init(
    memory: borrowing AttachedMemory, states: MappedPageStates, session: SessionID,
    urgent: Connection, bulk: [Connection],
    faultPlacement: ThreadPlacement = ThreadPlacement(isUrgent: true),
    bulkPlacement: ThreadPlacement = ThreadPlacement()
  ) throws(DataPlaneError) {
    let layout = memory.document.layout
    invariant(
      states.pageCount == Int(layout.totalPageCount.rawValue),
      "the page states are those of the image")
    parts = try Self.translating { () throws(SystemError) in
      PlaneParts(
        installer: PageInstaller(
          document: memory.document, kinds: memory.memoryKinds,
          userfault: memory.userfault.handle, ledger: PageLedger(fresh: states)),
        userfault: memory.userfault.handle, events: try DataPlaneEvents(),
        inbox: try PlaneInbox(), urgent: urgent, bulkCount: bulk.count,
        processDescriptor: memory.process.descriptor.rawValue, session: session)
    }
    self.bulk = bulk
    do throws(DataPlaneError) {
      try startFaultThread(faultPlacement)
      try startBulkThreads(Self.nodes(of: memory), bulkPlacement)
    } catch {
      stop()
      throw error
    }
  }

  deinit {
    invariant(
      faultThread == nil && bulkThreads.isEmpty, "a data plane is stopped before it goes"
    )
  }

  // MARK: What the session asks for

  /// Answers faults from now on. Only once the source said *frozen* and every stale page is gone:
  /// what is answered before could be wrong. Saying it again is harmless.
  public func startFaults() { parts.inbox.post(.startFaults) }

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

  /// Whether nothing is awaited from the source any more.
  public var isComplete: Bool { parts.installer.isComplete }

  /// The state of a page by its flat index.
  func state(ofPage page: Int) -> PageState { parts.installer.state(ofPage: page) }

  /// Unregisters every region, so that the kernel answers what was never here with zeros. Legal
  /// only once everything is here; refused, and nothing done, before. The link goes on: what is
  /// left to say can be said. Done when `stop` returns.
  public func unregister() throws(DataPlaneError) {
    let awaited = parts.installer.awaitedPageCount
    guard awaited == 0 else { throw .notComplete(awaitedPageCount: awaited) }
    parts.inbox.post(.unregister)
  }

  /// Ends the link; faults that need no source go on being answered.
  public func disconnect() {
    parts.urgent.shutdown()
    for connection in bulk { connection.shutdown() }
  }

  /// Sends what waits to be sent, ends the threads and closes the connections' streams. Memory,
  /// userfaultfd and page states stay as they are: unless `unregister` was asked for, whoever waits
  /// for a page goes on waiting.
  public func stop() { end(.stop) }

  private func end(_ wish: PlaneInbox.Wishes) {
    parts.inbox.post(wish)
    // The last words first, then the end of their stream, then that of bulk: a source that sees a
    // bulk connection end has been told why. The fault thread waits for no bulk thread: those hold
    // the fill lock for one step at a time, and end their retries once a stop was asked for.
    faultThread.take()?.join()
    parts.urgent.endSending()
    for connection in bulk { connection.shutdown() }
    parts.urgent.shutdown()
    for thread in bulkThreads { thread.join() }
    bulkThreads = []
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

  private func startBulkThreads(
    _ nodes: [Int], _ placement: ThreadPlacement
  ) throws(DataPlaneError) {
    let parts = parts
    for (position, connection) in bulk.enumerated() {
      let installer = try Self.translating { () throws(SystemError) in
        OneTimeValue(
          try BulkInstaller(plane: parts, connection: connection, position: position))
      }
      let node = nodes.isEmpty ? nil : nodes[position % nodes.count]
      let thread = try Self.translating { () throws(SystemError) in
        try WorkerThread(name: "postcopy-bulk\(position)", placement: placement) {
          if let node, placement.processor == nil { NumaNodes.runCurrentThread(onNode: node) }
          guard var installer = installer.take() else { return }
          installer.run()
        }
      }
      bulkThreads.append(JoinOnce(thread))
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
        memoryByteCount: RequestOutbox.byteCount + UrgentInbound.byteCount(for: layout))
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

/// A thread in an array: `WorkerThread` itself cannot be copied.
private final class JoinOnce {
  private var thread: WorkerThread?

  init(_ thread: consuming WorkerThread) { self.thread = consume thread }

  func join() { thread.take()?.join() }
}

/// Carries a value that cannot be copied into a new thread, which takes it once.
private final class OneTimeValue<Value: ~Copyable>: @unchecked Sendable {
  // Written before the thread starts, and taken by the thread: starting it orders the two.
  private var value: Value?

  init(_ value: consuming Value) { self.value = consume value }

  func take() -> Value? { value.take() }
}
