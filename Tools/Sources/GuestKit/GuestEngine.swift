internal import System

/// What executes the guest's operations: KVM, or threads of this process.
protocol GuestEngine: AnyObject, Sendable {
  var gate: VcpuGate { get }
  var blobKind: StateBlob.Kind { get }

  /// Makes the vCPU threads; they park at once. Call it once.
  func startThreads() throws(SystemError)
  /// Waits for threads that were told to leave. Only after all have parked.
  func joinThreads()
  /// Puts all vCPUs at the guest's first operation.
  func resetToEntry() throws(SystemError)
  /// The state of all vCPUs, which must be parked.
  func save() throws(SystemError) -> [StateBlob.Section]
  /// Sets the state of all vCPUs, which must be parked.
  func load(_ blob: StateBlob) throws(StateBlobError)
}

/// What runs the guest.
public enum GuestKind: String, CaseIterable, Sendable {
  /// Real vCPUs under KVM.
  case kvm
  /// Threads of this process that do what the guest program does.
  case process
}

/// Threads of one kind, joined once.
final class ThreadGroup: Sendable {
  // A thread cannot stand in an array by itself. Whoever takes a slot out of the list joins it.
  private final class Slot: @unchecked Sendable {
    private var thread: WorkerThread?
    init(_ thread: consuming WorkerThread) { self.thread = consume thread }
    func join() { thread.take()?.join() }
  }
  private let slots = Lock<[Slot]>([])

  func start(
    count: Int, name: String, _ body: @escaping @Sendable (_ index: Int) -> Void
  ) throws(SystemError) {
    for index in 0..<count {
      let thread = try WorkerThread(name: "\(name) \(index)") { body(index) }
      let slot = Slot(thread)
      slots.withLock { $0.append(slot) }
    }
  }

  func join() {
    let slots = slots.withLock { slots in
      defer { slots = [] }
      return slots
    }
    for slot in slots { slot.join() }
  }
}
