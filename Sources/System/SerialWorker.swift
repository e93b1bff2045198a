internal import Pages

/// A thread that carries out commands one at a time in the order in which they were given: for
/// calls that block, on behalf of a loop that must not.
public final class SerialWorker: Sendable {
  /// A command blocks as long as it has to; it tells its result by itself.
  public typealias Command = @Sendable () -> Void

  private enum Order: Sendable {
    case run(Command)
    case stop
  }

  private let orders: Mailbox<Order>
  private let thread: Lock<WorkerThread?>

  /// Starts the thread. `capacity` commands may wait.
  public init(name: String, capacity: Int) throws(SystemError) {
    let orders = try Mailbox<Order>(capacity: capacity + 1)
    self.orders = orders
    let started = try WorkerThread(name: name) {
      while let order = orders.receive() {
        switch order {
        case .run(let command): command()
        case .stop: return
        }
      }
    }
    thread = Lock(started)
  }

  /// Gives the thread a command; false when so many wait already that no more than `spareCount`
  /// places are left.
  public func run(leaving spareCount: Int = 0, _ command: @escaping Command) -> Bool {
    orders.post(.run(command), leaving: 1 + spareCount)
  }

  /// Lets the commands given so far end, and the thread with them. Blocks as long as they do.
  public func stop() {
    let taken: WorkerThread? = thread.withLock { $0.take() }
    guard let taken else { return }
    let isPosted = orders.post(.stop)
    invariant(isPosted, "the place for the last order is kept free")
    taken.join()
  }
}
