public import Pages
public import System

/// How a console speaks.
public struct ConsoleStyle: Hashable, Sendable {
  /// What becomes of progress.
  public enum Progress: Hashable, Sendable {
    /// One line that is written over and over, of at most that many columns.
    case live(columnCount: Int)
    /// A line from time to time.
    case plain
    /// Objects of JSON, one a line.
    case json
    /// Nothing.
    case none
  }

  /// What becomes of progress, and whether all is JSON.
  public var progress: Progress
  /// Messages that matter less are not shown.
  public var minimumLevel: LogLevel
  /// Whether warnings and errors are coloured.
  public var hasColor: Bool

  /// A style with all its parts.
  public init(progress: Progress, minimumLevel: LogLevel, hasColor: Bool) {
    self.progress = progress
    self.minimumLevel = minimumLevel
    self.hasColor = hasColor
  }

  /// The style for the options, the terminal behind standard error, and NO_COLOR (set and not
  /// empty: no colour). `-q` shows errors alone, `-v` everything.
  public static func usual(
    isQuiet: Bool, isVerbose: Bool, isJSON: Bool, isTerminal: Bool, columnCount: Int?,
    noColor: String?
  ) -> ConsoleStyle {
    let progress: Progress =
      if isJSON { .json } else if isQuiet { .none } else if isTerminal {
        .live(columnCount: columnCount ?? 80)
      } else { .plain }
    return ConsoleStyle(
      progress: progress, minimumLevel: isQuiet ? .error : isVerbose ? .debug : .notice,
      hasColor: isTerminal && !isJSON && (noColor ?? "").isEmpty)
  }

  /// The style for the options and this process's terminal and environment.
  public static func ofThisProcess(
    isQuiet: Bool, isVerbose: Bool, isJSON: Bool
  ) -> ConsoleStyle {
    let stream = StandardStream.error
    return usual(
      isQuiet: isQuiet, isVerbose: isVerbose, isJSON: isJSON, isTerminal: stream.isTerminal,
      columnCount: stream.columnCount, noColor: ProcessEnvironment.value(of: "NO_COLOR"))
  }
}

/// Where a session speaks to people and programs: messages, progress and the final report.
/// People's lines go to standard error and the report to standard output; with `--json` everything
/// is on standard output, one object a line.
///
/// Our own and not swift-log: it must share the terminal's last line with the progress line, which
/// a log back end does not know; no library that we use logs; and a package costs a build of its
/// own in every scratch path.
///
/// A thread of its own writes, so that a stuck terminal or log reader holds nobody up: progress is
/// dropped while the stream does not keep up, messages wait in a bounded queue and are dropped and
/// counted when that is full. Only errors and the report wait until they are written, and not for
/// long. Make it after `SignalSource`, like every thread. Never called on the fault path: it takes
/// a lock and allocates.
public final class Console: Sendable {
  /// Between two live lines: smooth for the eye, next to nothing of a processor.
  static let liveIntervalNanoseconds: UInt64 = 100_000_000
  /// Between two events of `--json`.
  static let jsonIntervalNanoseconds: UInt64 = 1_000_000_000
  /// Between two plain lines: a log file stays readable.
  static let plainIntervalNanoseconds: UInt64 = 5_000_000_000
  /// How long errors and the report wait for a reader: a busy one has read by then, and a stopped
  /// one does not hold the process's end for longer.
  public static let flushLimitNanoseconds: UInt64 = 2_000_000_000

  /// Where the console writes. The stream tells people's text from programs'. Called by one thread
  /// of the console's own; it may block.
  public typealias Sink = @Sendable (StandardStream, String) -> Void

  private struct State {
    var lastProgress: Instant?
    var lastFollowedProgress: Instant?
    var lastPhase = ""
    /// Messages that found no room since that was last said.
    var droppedCount = 0
  }

  private let vmName: String
  private let style: ConsoleStyle
  private let writer: ConsoleWriter
  private let timestamp: @Sendable () -> String
  private let follower: Follower?
  private let state = Lock(State())

  /// Gets every event as the line of `--json`, without its end, whatever the style is: must not
  /// block.
  public typealias Follower = @Sendable (String) -> Void

  /// Speaks about that VM on the standard streams.
  public convenience init(
    vmName: String, style: ConsoleStyle, follower: Follower? = nil
  ) {
    self.init(
      vmName: vmName, style: style, timestamp: { WallClock.timestamp() }, follower: follower,
      sink: { stream, text in stream.write(text) })
  }

  /// Speaks through `sink`; for tests and for daemons.
  public init(
    vmName: String, style: ConsoleStyle, timestamp: @escaping @Sendable () -> String,
    flushLimitNanoseconds: UInt64 = Console.flushLimitNanoseconds, follower: Follower? = nil,
    sink: @escaping Sink
  ) {
    self.vmName = vmName
    self.style = style
    self.timestamp = timestamp
    self.follower = follower
    writer = ConsoleWriter(flushLimitNanoseconds: flushLimitNanoseconds, sink: sink)
  }

  /// Says something once, when it matters enough. Blocks for errors alone: until they are written,
  /// or the flush limit has passed.
  public func log(_ level: LogLevel, _ text: String) {
    tellFollower(.message(level, text))
    guard level >= style.minimumLevel else { return }
    let priority: ConsoleWriter.Priority = level == .error ? .urgent : .ordinary
    state.withLock { state in post(logLine(level, text), priority, &state) }
    if level == .error { flush() }
  }

  /// Says that the link is lost, and that this ends nothing.
  public func tellLost(_ reason: String) {
    tell(
      .linkLost(reason: reason), .warning,
      "the link is lost (\(reason)); nothing is lost with it, it is being made again")
  }

  /// Says that the link is there again.
  public func tellRestored(address: String, outageNanoseconds: UInt64) {
    tell(
      .linkRestored(address: address, outageNanoseconds: outageNanoseconds), .notice,
      "the link is there again (\(address)) after "
        + Amounts.duration(nanoseconds: outageNanoseconds))
  }

  /// Says that the guest was paused for the lost link.
  public func tellGuestPaused(reason: String, isComplete: Bool) {
    tell(
      .guestPaused(reason: reason, isComplete: isComplete), .warning,
      "the guest is paused (\(reason))"
        + (isComplete ? "" : "; its vCPUs that wait for pages stop when these arrive"))
  }

  /// Says that a guest that was paused for a lost link runs on.
  public func tellGuestResumed(reason: String, pausedNanoseconds: UInt64) {
    tell(
      .guestResumed(reason: reason, pausedNanoseconds: pausedNanoseconds), .notice,
      "the guest runs on (\(reason))"
        + (pausedNanoseconds > 0
          ? " after \(Amounts.duration(nanoseconds: pausedNanoseconds))" : ""))
  }

  /// Something that was looked at before a move; for programs alone (`--json`).
  public func tellFinding(subject: String, verdict: String, text: String, remedy: String?) {
    // At any level: it is what was asked for.
    tell(
      .finding(subject: subject, verdict: verdict, text: text, remedy: remedy), .error,
      "\(subject): \(verdict): \(text)")
  }

  private func tell(_ event: ReportEvent, _ level: LogLevel, _ text: String) {
    tellFollower(event)
    guard level >= style.minimumLevel else { return }
    let line = style.progress == .json ? eventLine(event) : logLine(level, text)
    state.withLock { state in post(line, .ordinary, &state) }
  }

  /// Says what happened, what both sides hold and what to do: always shown. Blocks as `log` does.
  public func say(_ message: OperatorMessage, level: LogLevel = .error) {
    tellFollower(.message(level, message.description))
    let line =
      style.progress == .json
      ? eventLine(.message(level, message.description))
      : ConsoleWriter.Line(stream: .error, text: "\(colored(level)): \(message)\n")
    state.withLock { state in post(line, .urgent, &state) }
    if level == .error { flush() }
  }

  /// Shows how far it is, when it is time again or the phase is a new one, and the stream keeps up.
  /// Call it as often as you like; it never blocks.
  public func show(_ sample: ProgressSample, now: Instant) {
    state.withLock { state in
      if follower != nil,
        state.lastFollowedProgress.map({
          now.nanoseconds(since: $0) >= Self.jsonIntervalNanoseconds
        }) ?? true
      {
        state.lastFollowedProgress = now
        tellFollower(.progress(sample))
      }
      let interval: UInt64
      switch style.progress {
      case .none: return
      case .live: interval = Self.liveIntervalNanoseconds
      case .plain: interval = Self.plainIntervalNanoseconds
      case .json: interval = Self.jsonIntervalNanoseconds
      }
      if let last = state.lastProgress, sample.phase == state.lastPhase,
        now.nanoseconds(since: last) < interval
      {
        return
      }
      state.lastProgress = now
      state.lastPhase = sample.phase
      sayDropped(.ordinary, &state)
      // No room: the next sample tells all that this one would have told.
      _ = progressLine(sample).map { writer.post($0, .progress) }
    }
  }

  /// Prints the report, and waits until everything is written or the flush limit has passed. With
  /// `-q` there is no report: the exit code tells.
  public func finish(_ report: MigrationReport) {
    tellFollower(.finished(report))
    state.withLock { state in
      switch style.progress {
      case .json: post(eventLine(.finished(report)), .last, &state)
      case .none: sayDropped(.last, &state)
      case .live, .plain:
        post(ConsoleWriter.Line(stream: .output, text: report.text() + "\n"), .last, &state)
      }
    }
    flush()
  }

  /// Waits until everything said so far is written; false when the flush limit came first. Without
  /// the lock: others may go on speaking.
  @discardableResult
  public func flush() -> Bool { writer.flush() }

  /// Says what another process of the same session said, a line of its events: as it is with
  /// `--json`, else as if it had been said here. What is no event is shown as it is.
  public func relay(_ line: String) {
    if style.progress == .json {
      return state.withLock { state in
        post(ConsoleWriter.Line(stream: .output, text: line + "\n"), .ordinary, &state)
      }
    }
    switch ReportEvent(json: line) {
    case .message(let level, let text): log(level, text)
    case .progress(let sample): show(sample, now: MonotonicClock.now())
    case .linkLost(let reason): tellLost(reason)
    case .linkRestored(let address, let outage):
      tellRestored(address: address, outageNanoseconds: outage)
    case .guestPaused(let reason, let isComplete):
      tellGuestPaused(reason: reason, isComplete: isComplete)
    case .guestResumed(let reason, let paused):
      tellGuestResumed(reason: reason, pausedNanoseconds: paused)
    case .finding(let subject, let verdict, let text, let remedy):
      tellFinding(subject: subject, verdict: verdict, text: text, remedy: remedy)
    case .finished(let report): finish(report)
    case nil: log(.debug, line)
    }
  }

  private func tellFollower(_ event: ReportEvent) {
    follower?(event.json(vm: vmName, time: timestamp()))
  }

  /// Wide enough for every part of a line.
  private static let plainColumnCount = 200

  /// Queues the line behind word of those that were dropped before it, or drops and counts it.
  private func post(
    _ line: ConsoleWriter.Line, _ priority: ConsoleWriter.Priority, _ state: inout State
  ) {
    sayDropped(priority, &state)
    // An ordinary line does not overtake the word of its dropped predecessors.
    let mustWait = state.droppedCount > 0 && priority == .ordinary
    if mustWait || !writer.post(line, priority) { state.droppedCount += 1 }
  }

  /// Tells how many were dropped, when there is room for that and one line more.
  private func sayDropped(_ priority: ConsoleWriter.Priority, _ state: inout State) {
    guard state.droppedCount > 0 else { return }
    let text =
      state.droppedCount == 1
      ? "1 message was dropped" : "\(state.droppedCount) messages were dropped"
    if writer.post(logLine(.warning, text + ": nobody read"), priority, leaving: 1) {
      state.droppedCount = 0
    }
  }

  private func progressLine(_ sample: ProgressSample) -> ConsoleWriter.Line? {
    switch style.progress {
    case .none: return nil
    case .json: return eventLine(.progress(sample))
    case .plain:
      let text = ProgressLine.text(sample, width: Self.plainColumnCount)
      return ConsoleWriter.Line(stream: .error, text: text + "\n")
    case .live(let columnCount):
      // One column stays free: a full last column makes some terminals begin a new line.
      let text = ProgressLine.text(sample, width: columnCount - 1)
      return ConsoleWriter.Line(
        stream: .error, text: "\r" + text + ConsoleWriter.eraseToEnd, isLive: true)
    }
  }

  private func logLine(_ level: LogLevel, _ text: String) -> ConsoleWriter.Line {
    if style.progress == .json { return eventLine(.message(level, text)) }
    return ConsoleWriter.Line(
      stream: .error, text: "\(timestamp()) \(colored(level)) VM \(vmName): \(text)\n")
  }

  private func eventLine(_ event: ReportEvent) -> ConsoleWriter.Line {
    ConsoleWriter.Line(stream: .output, text: event.json(vm: vmName, time: timestamp()) + "\n")
  }

  private func colored(_ level: LogLevel) -> String {
    guard style.hasColor else { return level.name }
    switch level {
    case .debug, .notice: return level.name
    case .warning: return "\u{1B}[33m\(level.name)\u{1B}[0m"
    case .error: return "\u{1B}[31m\(level.name)\u{1B}[0m"
    }
  }
}
