internal import Pages
internal import System
internal import Uring

/// Something that one thread makes and one other thread then has for itself.
final class ThreadOwned<Value: ~Copyable>: @unchecked Sendable {
  // Sendable because the maker gives it up: only the thread that it is made for touches it.
  var value: Value
  init(_ value: consuming Value) { self.value = value }
}

/// The urgent connection with its thread.
final class UrgentLink: Sendable {
  let servingGate: ServingGate
  private let connection: Connection
  private let ended: WakeEvent
  private let thread: Lock<WorkerThread?>

  init(
    _ context: SourceContext, _ connection: Connection, _ outgoing: Mailbox<OutgoingMessage>,
    serving: ServingGate.State
  ) throws(SystemError) {
    servingGate = ServingGate(serving)
    self.connection = connection
    let ended = try WakeEvent()
    self.ended = ended
    let server = ThreadOwned(
      try UrgentServer(context, connection, outgoing: outgoing, servingGate: servingGate))
    let started = try WorkerThread(
      name: "urgent", placement: context.options.urgentPlacement
    ) {
      server.value.run()
      ended.signal()
    }
    thread = Lock(started)
  }

  /// Joins the thread, which was told to stop; cuts it short at the deadline.
  func finish(until deadline: Instant) {
    // An error of poll is a deadline at once: the thread is then cut short, which is always sound.
    let isReady = try? Readiness.wait(for: [ended.rawValue], until: deadline)
    if isReady != [true] { connection.shutdown() }
    let taken: WorkerThread? = thread.withLock { $0.take() }
    if let taken { taken.join() }
  }
}

/// A bulk connection with its thread.
final class BulkLink: Sendable {
  let servingGate: ServingGate
  let wake: WakeEvent
  private let connection: Connection
  private let thread: Lock<WorkerThread?>

  init(
    _ context: SourceContext, _ connection: Connection, serving: ServingGate.State
  ) throws(SystemError) {
    servingGate = ServingGate(serving)
    self.connection = connection
    // Was accepted before its hello told what it is for. An option that cannot be set costs order
    // in the kernel's queue, and a connection that is gone tells so by itself.
    try? connection.setPurpose(.bulk)
    let wake = try WakeEvent()
    self.wake = wake
    let sender = ThreadOwned(
      try BulkSender(context, connection, wake: wake, servingGate: servingGate))
    let started = try WorkerThread(name: "bulk", placement: context.options.bulkPlacement) {
      sender.value.run()
    }
    thread = Lock(started)
  }

  /// Unblocks the thread, whatever it waits for, and lets it end.
  func stop() {
    connection.shutdown()
    wake.signal()
  }

  /// Waits for the end of the thread.
  func join() {
    let taken: WorkerThread? = thread.withLock { $0.take() }
    if let taken { taken.join() }
  }
}
