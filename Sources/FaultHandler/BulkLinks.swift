internal import Pages
internal import Synchronization
internal import System
internal import Uring

/// The bulk connections of one link with their threads. A new link has new ones.
final class BulkLinks: Sendable {
  /// The link that they belong to.
  let number: UInt32
  let connections: [Connection]
  /// Whether the source has to be told what is here: it may have pushed in vain on an earlier link.
  let tellsResidency: Bool
  private let unfinishedPushCount: Atomic<Int>
  private let hasEnded = Atomic<Bool>(false)
  private let threads = Lock<[JoinableThread]>([])

  init(number: UInt32, connections: [Connection], tellsResidency: Bool) {
    self.number = number
    self.connections = connections
    self.tellsResidency = tellsResidency
    unfinishedPushCount = Atomic(connections.count)
  }

  /// Whether the link is given up: asked by those that retry something.
  var isOver: Bool { hasEnded.load(ordering: .acquiring) }

  /// One connection has brought everything; true for the last one.
  func notePushFinished() -> Bool {
    unfinishedPushCount.subtract(1, ordering: .acquiringAndReleasing).newValue == 0
  }

  /// Starts one thread for each connection; `nodes` are those of the memory.
  func start(
    _ plane: PlaneParts, nodes: [Int], placement: ThreadPlacement
  ) throws(SystemError) {
    for position in connections.indices {
      let installer = OneTimeValue(
        try BulkInstaller(plane: plane, link: self, position: position))
      let node = nodes.isEmpty ? nil : nodes[position % nodes.count]
      let thread = try WorkerThread(name: "postcopy-bulk\(position)", placement: placement) {
        if let node, placement.processor == nil { NumaNodes.runCurrentThread(onNode: node) }
        guard var installer = installer.take() else { return }
        installer.run()
      }
      let joinable = JoinableThread(thread)
      threads.withLock { $0.append(joinable) }
    }
  }

  /// Lets no thread begin another fill. The connections stay open until `end`.
  func close() { hasEnded.store(true, ordering: .releasing) }

  /// Ends the connections and returns at once. No thread begins another fill; one that is in the
  /// middle of a fill ends with it.
  func end() {
    close()
    for connection in connections { connection.shutdown() }
  }

  /// Waits for the threads of a link that was ended: what they had received is installed or dropped
  /// when it returns (P3). For any thread, and for several.
  func awaitEnd() {
    for thread in threads.withLock({ $0 }) { thread.join() }
  }
}

/// A thread in an array: `WorkerThread` itself cannot be copied.
private final class JoinableThread: Sendable {
  private let thread: Lock<WorkerThread?>

  init(_ thread: consuming WorkerThread) { self.thread = Lock(consume thread) }

  /// Whoever comes second waits for the first: the lock is held until the thread has ended.
  func join() {
    thread.withLock { thread in
      let taken: WorkerThread? = thread.take()
      if let taken { taken.join() }
    }
  }
}

/// Links that were given up, and whose threads may not have ended yet.
struct DroppedLinks: Sendable {
  /// A word to the source is a send into a kernel's buffer. What takes longer is not said.
  private static let farewellNanoseconds: UInt64 = 100_000_000

  let links: [BulkLinks]
  /// Signalled once the last word is said on urgent; nil when there is none.
  let farewell: WakeEvent?

  /// Waits until nothing that came on them is being installed any more. For a thread that nobody
  /// waits for.
  func awaitEnd() {
    if let farewell {
      // Bulk ends behind it: a source that saw that first would not know why. A poll that fails
      // costs the source the reason.
      let limit = MonotonicClock.now().advanced(byNanoseconds: Self.farewellNanoseconds)
      _ = try? Readiness.wait(for: [farewell.rawValue], until: limit)
    }
    for link in links {
      link.end()
      link.awaitEnd()
    }
  }
}

/// Carries a value that cannot be copied into a new thread, which takes it once.
final class OneTimeValue<Value: ~Copyable>: @unchecked Sendable {
  // Written before the thread starts, and taken by the thread: starting it orders the two.
  private var value: Value?

  init(_ value: consuming Value) { self.value = consume value }

  func take() -> Value? { value.take() }
}
