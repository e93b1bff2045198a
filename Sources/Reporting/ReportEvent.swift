/// One line of `--json`: an object with "version", "event", "time", "vm" and what belongs to the
/// event. Within a version, keys and events are only added.
public enum ReportEvent: Sendable {
  /// Something that an operator may want to know.
  case message(LogLevel, String)
  /// How far it is.
  case progress(ProgressSample)
  /// Nothing is heard of the other side any more; it is being looked for.
  case linkLost(reason: String)
  /// The other side is there again.
  case linkRestored(address: String, outageNanoseconds: UInt64)
  /// The guest was paused because the other side cannot be reached; not complete while vCPUs wait
  /// for pages, which stop when these arrive.
  case guestPaused(reason: String, isComplete: Bool)
  /// The guest runs on; it was paused for that long as far as is known.
  case guestResumed(reason: String, pausedNanoseconds: UInt64)
  /// Something that was looked at before a move; what to run when it is not as it should be.
  case finding(subject: String, verdict: String, text: String, remedy: String?)
  /// The last line: the whole report.
  case finished(MigrationReport)

  /// The line, without its end.
  func json(vm: String, time: String) -> String {
    var line = EventLine(vm: vm, time: time)
    switch self {
    case .message(let level, let text):
      line.event = "message"
      line.level = level.name
      line.text = text
    case .progress(let sample):
      line.event = "progress"
      line.progress = sample
    case .linkLost(let reason):
      line.event = "link-lost"
      line.level = LogLevel.warning.name
      line.reason = reason
    case .linkRestored(let address, let outageNanoseconds):
      line.event = "link-restored"
      line.level = LogLevel.notice.name
      line.address = address
      line.outageNanoseconds = outageNanoseconds
    case .guestPaused(let reason, let isComplete):
      line.event = "guest-paused"
      line.level = LogLevel.warning.name
      line.reason = reason
      line.isComplete = isComplete
    case .guestResumed(let reason, let pausedNanoseconds):
      line.event = "guest-resumed"
      line.level = LogLevel.notice.name
      line.reason = reason
      line.pausedNanoseconds = pausedNanoseconds
    case .finding(let subject, let verdict, let text, let remedy):
      line.event = "finding"
      line.subject = subject
      line.verdict = verdict
      line.text = text
      line.remedy = remedy
    case .finished(let report):
      line.event = "finished"
      line.report = report
    }
    return JSONText.line(of: line)
  }

  /// Reads such a line; nil for what this version does not know.
  init?(json: String) {
    guard let line = JSONText.value(EventLine.self, of: json) else { return nil }
    if let report = line.report {
      self = .finished(report)
    } else if let progress = line.progress {
      self = .progress(progress)
    } else if line.event == "link-lost", let reason = line.reason {
      self = .linkLost(reason: reason)
    } else if let address = line.address, let outage = line.outageNanoseconds {
      self = .linkRestored(address: address, outageNanoseconds: outage)
    } else if let reason = line.reason, let isComplete = line.isComplete {
      self = .guestPaused(reason: reason, isComplete: isComplete)
    } else if let reason = line.reason, let paused = line.pausedNanoseconds {
      self = .guestResumed(reason: reason, pausedNanoseconds: paused)
    } else if let subject = line.subject, let verdict = line.verdict, let text = line.text {
      self = .finding(subject: subject, verdict: verdict, text: text, remedy: line.remedy)
    } else if let text = line.text,
      let level = LogLevel.allCases.first(where: { $0.name == line.level })
    {
      self = .message(level, text)
    } else {
      return nil
    }
  }
}

/// How much a message matters.
public enum LogLevel: UInt8, CaseIterable, Comparable, Sendable {
  /// For whoever looks for a fault in us.
  case debug = 0
  /// A step that was taken.
  case notice = 1
  /// Something is not as it should be; the migration goes on.
  case warning = 2
  /// The migration cannot go on.
  case error = 3

  /// The word in messages.
  public var name: String {
    switch self {
    case .debug: "debug"
    case .notice: "notice"
    case .warning: "warning"
    case .error: "error"
    }
  }

  /// Whether the left one matters less.
  public static func < (left: LogLevel, right: LogLevel) -> Bool { left.rawValue < right.rawValue }
}

private struct EventLine: Codable {
  var version = MigrationReport.currentVersion
  var event = ""
  var vm: String
  var time: String
  var level: String?
  var text: String?
  var subject: String?
  var verdict: String?
  var remedy: String?
  var reason: String?
  var address: String?
  var outageNanoseconds: UInt64?
  var isComplete: Bool?
  var pausedNanoseconds: UInt64?
  var progress: ProgressSample?
  var report: MigrationReport?

  init(vm: String, time: String) {
    self.vm = vm
    self.time = time
  }
}
