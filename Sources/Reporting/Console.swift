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
/// own in every scratch path. Never called on the fault path: it writes, and takes a lock.
public final class Console: Sendable {
  /// Between two live lines: smooth for the eye, next to nothing of a processor.
  static let liveIntervalNanoseconds: UInt64 = 100_000_000
  /// Between two events of `--json`.
  static let jsonIntervalNanoseconds: UInt64 = 1_000_000_000
  /// Between two plain lines: a log file stays readable.
  static let plainIntervalNanoseconds: UInt64 = 5_000_000_000

  /// Where the console writes. The stream tells people's text from programs'.
  public typealias Sink = @Sendable (StandardStream, String) -> Void

  private struct State {
    var lastProgress: Instant?
    var lastPhase = ""
    var hasLiveLine = false
  }

  private let vmName: String
  private let style: ConsoleStyle
  private let sink: Sink
  private let timestamp: @Sendable () -> String
  private let state = Lock(State())

  /// Speaks about that VM on the standard streams.
  public convenience init(vmName: String, style: ConsoleStyle) {
    self.init(
      vmName: vmName, style: style, timestamp: { WallClock.timestamp() },
      sink: { stream, text in stream.write(text) })
  }

  /// Speaks through `sink`; for tests and for daemons.
  public init(
    vmName: String, style: ConsoleStyle, timestamp: @escaping @Sendable () -> String,
    sink: @escaping Sink
  ) {
    self.vmName = vmName
    self.style = style
    self.timestamp = timestamp
    self.sink = sink
  }

  /// Says something once, when it matters enough.
  public func log(_ level: LogLevel, _ text: String) {
    guard level >= style.minimumLevel else { return }
    state.withLock { state in
      if style.progress == .json {
        emit(.message(level, text))
      } else {
        clearLiveLine(&state)
        sink(.error, "\(timestamp()) \(colored(level)) VM \(vmName): \(text)\n")
      }
    }
  }

  /// Says what happened, what both sides hold and what to do: always shown.
  public func say(_ message: OperatorMessage, level: LogLevel = .error) {
    state.withLock { state in
      if style.progress == .json {
        emit(.message(level, message.description))
      } else {
        clearLiveLine(&state)
        sink(.error, "\(colored(level)): \(message)\n")
      }
    }
  }

  /// Shows how far it is, when it is time again or the phase is a new one. Call it as often as you
  /// like.
  public func show(_ sample: ProgressSample, now: Instant) {
    state.withLock { state in
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
      switch style.progress {
      case .none: return
      case .json: emit(.progress(sample))
      case .plain:
        sink(.error, ProgressLine.text(sample, width: Self.plainColumnCount) + "\n")
      case .live(let columnCount):
        state.hasLiveLine = true
        // One column stays free: a full last column makes some terminals begin a new line.
        sink(.error, "\r" + ProgressLine.text(sample, width: columnCount - 1) + Self.eraseToEnd)
      }
    }
  }

  /// Prints the report. With `-q` there is none: the exit code tells.
  public func finish(_ report: MigrationReport) {
    state.withLock { state in
      clearLiveLine(&state)
      switch style.progress {
      case .json: emit(.finished(report))
      case .none: return
      case .live, .plain: sink(.output, report.text() + "\n")
      }
    }
  }

  /// Wide enough for every part of a line.
  private static let plainColumnCount = 200
  /// Clears what a longer line left behind (ECMA-48, EL).
  private static let eraseToEnd = "\u{1B}[K"

  private func clearLiveLine(_ state: inout State) {
    guard state.hasLiveLine else { return }
    sink(.error, "\r" + Self.eraseToEnd)
    state.hasLiveLine = false
  }

  private func emit(_ event: ReportEvent) {
    sink(.output, event.json(vm: vmName, time: timestamp()) + "\n")
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
