internal import Glibc
public import Pages
internal import System

/// Why a trace cannot be written.
public struct TraceFileError: Error, Hashable, Sendable, CustomStringConvertible {
  /// One sentence for an operator.
  public var description: String
}

/// A file of events with their times, which ui.perfetto.dev and chrome://tracing open.
///
/// One event is one line, so that the file of a process that was killed can be read, and gone on
/// with by the next. A thread of its own writes: a file system that hangs holds nobody up, and
/// costs events, which are counted. Times are the wall clock's, as it stood at the beginning, so
/// that the files of both hosts can be laid side by side as far as their clocks agree.
public final class TraceFile: Sendable {
  /// A row of the picture.
  public enum Row: Int, CaseIterable, Sendable {
    /// The states of the session, one behind the other.
    case session = 1
    /// Rounds of seeds.
    case rounds
    /// What the VM stood still for.
    case handOver
    /// Times without a link.
    case link
    /// Times for which the guest was paused.
    case guest

    /// What it is called in the picture.
    public var name: String {
      switch self {
      case .session: "session"
      case .rounds: "rounds"
      case .handOver: "hand-over"
      case .link: "link"
      case .guest: "guest"
      }
    }
  }

  /// Events that wait for the file: minutes of them.
  static let capacity = 4096
  /// Above every line of ours: the longest has a refusal's reason of a kilobyte.
  private static let maximumLineByteCount: UInt64 = 65_536

  /// A file of weeks; what follows is not written, and that is told at the end.
  static let maximumByteCount: UInt64 = 1 << 28
  /// How long the file system may take to open the file.
  private static let openNanoseconds: UInt64 = 2_000_000_000

  private let path: String
  private let process: String
  private let pid: Int32
  private let worker: SerialWorker
  private let written: WakeEvent
  private let state: Lock<State>
  private let shared = Lock(Shared())
  /// Nanoseconds since 1970 at the monotonic clock's `start`.
  private let startSince1970: UInt64
  private let start: Instant

  /// What the file's own thread holds during its calls.
  private struct State: ~Copyable {
    var file: OwnedDescriptor?
    var byteCount: UInt64 = 0
    var isFirst = true
    var error: SystemError?
  }

  private struct Shared {
    var hasBegun = false
    var droppedCount: UInt64 = 0
    var openError: SystemError?
  }

  /// Opens the file at `path`, which is not changed before the first event: then it is begun anew,
  /// or what an earlier process of the session has written is gone on with. `process` is what this
  /// one is called in the picture. Blocks for two seconds at most.
  public init(
    path: String, isContinued: Bool, process: String
  ) throws(TraceFileError) {
    self.path = path
    self.process = process
    pid = getpid()
    start = MonotonicClock.now()
    startSince1970 = WallClock.nanosecondsSince1970()
    do throws(SystemError) {
      state = Lock(State())
      written = try WakeEvent()
      worker = try SerialWorker(name: "trace", capacity: Self.capacity)
    } catch {
      throw TraceFileError(description: "the trace cannot be written: \(error)")
    }
    try open(isContinued: isContinued)
  }

  /// On the file's own thread: a file system may hang.
  private func open(isContinued: Bool) throws(TraceFileError) {
    _ = worker.run { [self] in
      do throws(SystemError) {
        let file = try OwnedDescriptor.open(path, flags: O_RDWR | O_CREAT, mode: 0o600)
        guard try FileLock.lock(file, operand: path) else {
          throw SystemError("flock", path, .tryAgain)
        }
        guard try FileStatus.of(file).isRegularFile else {
          throw SystemError("open", path, .invalidArgument)
        }
        let kept = isContinued ? try Self.keptByteCount(file, path) : 0
        state.withLock { state in
          state.byteCount = kept
          state.isFirst = kept == 0
        }
        Self.give(file, to: state)
      } catch {
        shared.withLock { $0.openError = error }
      }
      written.signal()
    }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.openNanoseconds)
    let isAnswered = (try? Readiness.wait(for: [written.rawValue], until: deadline)) == [true]
    written.drain()
    let error = shared.withLock { $0.openError }
    guard isAnswered, error == nil else {
      if isAnswered { worker.stop() }
      throw TraceFileError(
        description: error?.errno == .tryAgain
          ? "another process writes its trace to \(path): give each side a file of its own"
          : "the trace cannot be written: "
            + (error.map { "\($0)" } ?? "the file system of \(path) does not answer"))
    }
  }

  private static func give(_ file: consuming OwnedDescriptor, to state: Lock<State>) {
    var given: OwnedDescriptor? = file
    state.withLock { $0.file = given.take() }
  }

  /// Something begins on a row; what begins later on the same one has to end before.
  public func begin(_ name: String, on row: Row, _ facts: [String: String] = [:]) {
    var event = event(.begin, row, MonotonicClock.now())
    event.name = name
    event.args = facts.isEmpty ? nil : facts.mapValues { .text($0) }
    post(event)
  }

  /// What began last on the row ends.
  public func end(on row: Row) { post(event(.end, row, MonotonicClock.now())) }

  /// Something that began and ended at moments that are known by now.
  public func slice(
    _ name: String, on row: Row, from start: Instant, to end: Instant,
    _ facts: [String: String] = [:]
  ) {
    var event = event(.complete, row, start)
    event.name = name
    event.dur = Double(end.nanoseconds(since: start)) / 1000
    event.args = facts.isEmpty ? nil : facts.mapValues { .text($0) }
    post(event)
  }

  /// Something happens that takes no time.
  public func mark(_ name: String, on row: Row) {
    var event = event(.mark, row, MonotonicClock.now())
    event.name = name
    event.s = "t"
    post(event)
  }

  /// What is counted has that value now.
  public func count(_ name: String, _ value: UInt64) {
    var event = event(.counter, nil, MonotonicClock.now())
    event.name = name
    event.args = ["value": .count(value)]
    post(event)
  }

  /// Writes what waits and the end. Returns what is wrong with the file, if something is; at the
  /// latest at the deadline. A file of which no event was told stays as it was.
  public func close(until deadline: Instant) -> String? {
    let (hasBegun, dropped) = shared.withLock { ($0.hasBegun, $0.droppedCount) }
    let written = written
    let isAsked = worker.run { [self] in
      if hasBegun { write("]\n", isEnd: true) }
      written.signal()
    }
    guard isAsked, (try? Readiness.wait(for: [written.rawValue], until: deadline)) == [true] else {
      // A write that never returns cannot be waited for: its thread ends with the process.
      return "the trace \(path) is not whole: its file system does not answer"
    }
    worker.stop()
    let error = state.withLock { $0.error }
    if let error { return "the trace \(path) is not whole: \(error)" }
    return dropped == 0
      ? nil : "the trace \(path) lacks \(dropped) events: its file system was too slow for them"
  }

  // MARK: Lines

  private func event(_ phase: TraceEvent.Phase, _ row: Row?, _ moment: Instant) -> TraceEvent {
    // A moment before the file was opened is of an earlier process, and is shown as its beginning.
    let since = startSince1970 + moment.nanoseconds(since: start)
    return TraceEvent(
      ph: phase, ts: Double(since) / 1000, pid: pid, tid: row.map(\.rawValue) ?? 0)
  }

  /// The names that stand before the first event.
  private func names() -> [TraceEvent] {
    var name = event(.name, nil, start)
    name.name = "process_name"
    name.args = ["name": .text(process)]
    var names = [name]
    for row in Row.allCases {
      name.tid = row.rawValue
      name.name = "thread_name"
      name.args = ["name": .text(row.name)]
      names.append(name)
      name.name = "thread_sort_index"
      name.args = ["sort_index": .count(UInt64(row.rawValue))]
      names.append(name)
    }
    return names
  }

  private func post(_ event: TraceEvent) {
    let isFirst = shared.withLock { shared in
      defer { shared.hasBegun = true }
      return !shared.hasBegun
    }
    // A place for the end stays free.
    let isTaken = worker.run(leaving: 1) { [self] in
      if isFirst {
        begin()
        for name in names() { write(JSONText.line(of: name), isEnd: false) }
      }
      write(JSONText.line(of: event), isEnd: false)
    }
    if !isTaken { shared.withLock { $0.droppedCount += 1 } }
  }

  /// On the file's own thread: what is not gone on with goes.
  private func begin() {
    state.withLock { state in
      do throws(SystemError) {
        try state.file?.setByteCount(state.byteCount, operand: path)
      } catch { state.error = error }
    }
  }

  /// On the file's own thread. An error ends the writing, and is told at the end.
  private func write(_ line: String, isEnd: Bool) {
    state.withLock { state in
      guard state.error == nil else { return }
      let text = isEnd ? line : (state.isFirst ? "[\n" : ",") + line + "\n"
      do throws(SystemError) {
        guard isEnd || state.byteCount < Self.maximumByteCount else {
          throw SystemError("write", "\(path), of which this is the most", .fileTooLarge)
        }
        try state.file?.writeAll(Array(text.utf8), atOffset: state.byteCount, operand: path)
        state.byteCount += UInt64(text.utf8.count)
        state.isFirst = false
      } catch { state.error = error }
    }
  }

  /// What an earlier process has written whole: up to its last line, without the end. What is no
  /// trace of ours is not kept.
  private static func keptByteCount(
    _ file: borrowing OwnedDescriptor, _ path: String
  ) throws(SystemError) -> UInt64 {
    let byteCount = try FileStatus.of(file).byteCount
    let head = try file.read(byteCount: 2, atOffset: 0, operand: path)
    // What is no trace of ours is not kept.
    guard head == Array("[\n".utf8) else { return 0 }
    let tailStart = byteCount - min(byteCount, maximumLineByteCount)
    var tail = try file.read(
      byteCount: Int(byteCount - tailStart), atOffset: tailStart, operand: path)
    while let last = tail.last, last != 0x0A { tail.removeLast() }
    if tail.suffix(3) == Array("\n]\n".utf8)[...] { tail.removeLast(2) }
    let kept = tailStart + UInt64(tail.count)
    // Nothing but the opening bracket: begun anew, for the first event has no comma before it.
    return kept <= 2 ? 0 : kept
  }
}
