internal import Pages
internal import System

/// The thread that writes a console's lines, and the bounded queue to it: a write to a stopped
/// terminal, pager or log reader blocks as long as it pleases, and whoever speaks must not.
final class ConsoleWriter: Sendable {
  /// What is written in one go.
  struct Line: Sendable {
    let stream: StandardStream
    let text: String
    /// Whether the next line is to be written over it.
    var isLive = false
  }

  /// How much of the queue a line may fill.
  enum Priority {
    /// The next one tells more: only while the stream keeps up.
    case progress
    /// Goes missing, and is counted, when the stream has been stuck for long.
    case ordinary
    /// How it ended: finds room behind any number of ordinary lines.
    case urgent
    /// The report: finds room behind everything else.
    case last

    /// The places that stay free.
    var reservedCount: Int {
      switch self {
      case .progress: ConsoleWriter.capacity - ConsoleWriter.progressCapacity
      case .ordinary: 16
      case .urgent: 4
      case .last: 1  // for `stop`
      }
    }
  }

  /// A session says a few dozen lines; a few hundred kilobytes at most wait for a stuck reader.
  static let capacity = 256
  /// Enough that a healthy reader loses nothing, and a stuck one finds little that is old.
  static let progressCapacity = 8
  /// Clears what a longer line left behind (ECMA-48, EL).
  static let eraseToEnd = "\u{1B}[K"

  private enum Order: Sendable {
    case write(Line)
    case stop
  }

  private struct Counts {
    var posted: UInt64 = 0
    var written: UInt64 = 0
    /// The count of written lines that somebody waits for.
    var awaited: UInt64?
  }

  /// What the thread holds; not the writer itself, whose end ends the thread.
  private final class Channel: Sendable {
    let orders: Mailbox<Order>
    let counts = Lock(Counts())
    let isWritten: WakeEvent

    init() throws(SystemError) {
      orders = try Mailbox<Order>(capacity: ConsoleWriter.capacity)
      isWritten = try WakeEvent()
    }

    func carryOut(with printer: LinePrinter) {
      while let order = orders.receive() {
        guard case .write(let line) = order else { return }
        printer.write(line)
        let isAwaited = counts.withLock { counts in
          counts.written += 1
          guard let awaited = counts.awaited, counts.written >= awaited else { return false }
          counts.awaited = nil
          return true
        }
        if isAwaited { isWritten.signal() }
      }
    }
  }

  private let printer: LinePrinter
  /// Nil when the system gave no thread or event.
  private let channel: Channel?
  private let thread: Lock<WorkerThread?>
  /// The count of written lines when somebody last waited in vain. Held while somebody waits.
  private let stuckCount = Lock<UInt64?>(nil)
  private let flushLimitNanoseconds: UInt64

  /// Starts the thread, which is the only one that calls `sink`. Without a thread the lines are
  /// written at once by whoever posts them: no session starts in a process that gets no threads.
  init(flushLimitNanoseconds: UInt64, sink: @escaping Console.Sink) {
    self.flushLimitNanoseconds = flushLimitNanoseconds
    let printer = LinePrinter(sink)
    self.printer = printer
    do throws(SystemError) {
      let channel = try Channel()
      let started = try WorkerThread(name: "console") { channel.carryOut(with: printer) }
      self.channel = channel
      thread = Lock(started)
    } catch {
      channel = nil
      thread = Lock(nil)
    }
  }

  deinit {
    guard let channel else { return }
    let isIdle = flush()
    let isPosted = channel.orders.post(.stop)
    invariant(isPosted, "the place for the last order is kept free")
    let taken: WorkerThread? = thread.withLock { $0.take() }
    // A thread whose write never returns cannot be joined; it ends with the process.
    if isIdle, let taken { taken.join() }
  }

  /// Queues a line; false when there is no room and nothing was done. Never blocks. One call at a
  /// time: the console's lock sees to that.
  func post(_ line: Line, _ priority: Priority, leaving moreCount: Int = 0) -> Bool {
    guard let channel else {
      printer.write(line)
      return true
    }
    let reserve = priority.reservedCount + moreCount
    guard channel.orders.post(.write(line), leaving: reserve) else { return false }
    channel.counts.withLock { $0.posted += 1 }
    return true
  }

  /// Waits until everything posted so far is written; false when the limit came first. Whoever asks
  /// again while not one more line was written gets that answer at once: the end of a session says
  /// several things, and a stuck reader holds it once.
  func flush() -> Bool {
    guard let channel else { return true }
    return stuckCount.withLock { stuckCount in
      let target = channel.counts.withLock { $0.posted }
      let deadline = MonotonicClock.now().advanced(byNanoseconds: flushLimitNanoseconds)
      while true {
        let written = channel.counts.withLock { counts in
          counts.awaited = counts.written < target ? target : nil
          return counts.written
        }
        if written >= target { return true }
        if written == stuckCount { return false }
        guard Self.wait(for: channel.isWritten, until: deadline) else {
          stuckCount = channel.counts.withLock { $0.written }
          return stuckCount.map { $0 >= target } ?? false
        }
        channel.isWritten.drain()
      }
    }
  }

  /// False when the deadline passed, or the kernel refuses to wait (ENOMEM): then nobody waits.
  private static func wait(for event: WakeEvent, until deadline: Instant) -> Bool {
    do throws(SystemError) {
      return try Readiness.wait(for: [event.rawValue], until: deadline) == [true]
    } catch { return false }
  }
}

/// Writes lines one after the other, and clears a live one before anything else comes.
private final class LinePrinter: Sendable {
  private let sink: Console.Sink
  /// Held during a write: the writer's thread is alone, and without one nobody else is to write.
  private let hasLiveLine = Lock(false)

  init(_ sink: @escaping Console.Sink) { self.sink = sink }

  func write(_ line: ConsoleWriter.Line) {
    hasLiveLine.withLock { hasLiveLine in
      if hasLiveLine && !line.isLive { sink(.error, "\r" + ConsoleWriter.eraseToEnd) }
      hasLiveLine = line.isLive
      sink(line.stream, line.text)
    }
  }
}
