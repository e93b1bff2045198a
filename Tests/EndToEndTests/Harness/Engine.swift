import Foundation
import Glibc
package import Pages
package import Reporting
package import System
package import Testing

/// A line of `--json`.
package struct EventLine: Decodable {
  package var event: String
  package var vm: String
  package var level: String?
  package var text: String?
  /// Of `finding`, as `verdict`.
  package var subject: String?
  package var verdict: String?
  package var report: MigrationReport?
  /// Of `link-lost`, `guest-paused` and `guest-resumed`.
  package var reason: String?
  /// Of `link-restored`.
  package var address: String?
  /// Of `link-restored`.
  package var outageNanoseconds: UInt64?
  /// Of `guest-paused`.
  package var isComplete: Bool?
  /// Of `guest-resumed`.
  package var pausedNanoseconds: UInt64?
}

/// How a `page-server send` or a `postcopyd receive` ended.
package struct EngineEnd {
  package var ending: ChildProcess.Ending
  package var report: MigrationReport?
  /// The message for the operator.
  package var message: String
}

/// A running `page-server send` or `postcopyd receive`.
package final class Engine {
  package let program: Program
  /// Workers that a test has ended.
  private var killedWorkers: Set<Int32> = []

  package init(_ name: String, _ arguments: [String], prefix: [String] = []) throws {
    program = try Program(name, prefix + [Binaries.path(name)] + arguments + ["--json", "-v"])
  }

  /// A worker outlives its parent, as it must: a test that has failed leaves neither.
  deinit {
    guard !program.hasEnded else { return }
    for pid in processes { try? ProcessHandle.open(pid: pid).kill() }
  }

  private static func event(_ line: String) -> EventLine? {
    try? JSONDecoder().decode(EventLine.self, from: Data(line.utf8))
  }

  /// Waits until it has said something that contains `text`.
  @discardableResult
  package func waitFor(
    _ text: String, until deadline: Instant = Patience.deadline()
  ) throws -> String {
    let line = try program.line("“\(text)”", until: deadline) {
      Self.event($0)?.text?.contains(text) ?? false
    }
    return Self.event(line)?.text ?? ""
  }

  /// Waits until its core is in that state, or was, for the `count`th time.
  package func waitFor(state: String, count: Int = 1) throws {
    var seenCount = 0
    try program.line("that its state is \(state), \(count) times") {
      guard Self.event($0)?.text == "state: \(state)" else { return false }
      seenCount += 1
      return seenCount == count
    }
  }

  /// Waits until it has told an event for the `count`th time, and gives that one.
  @discardableResult
  package func waitFor(
    event name: String, count: Int = 1, until deadline: Instant = Patience.deadline()
  ) throws -> EventLine {
    var found: [String: EventLine] = [:]
    var seenCount = 0
    let line = try program.line("\(name) for the time number \(count)", until: deadline) { line in
      guard let event = Self.event(line), event.event == name else { return false }
      seenCount += 1
      found[line] = event
      return seenCount == count
    }
    guard let event = found[line] else {
      throw HarnessError(description: "what was found a moment ago is gone")
    }
    return event
  }

  /// How often it has told an event so far.
  package func count(ofEvent name: String) -> Int {
    program.lines.compactMap { Self.event($0) }.count { $0.event == name }
  }

  /// What it has found of something, with `--check`: "ok", "limited" or "missing"; nil when it told
  /// nothing of it, or more than one thing.
  package func verdict(of subject: String) -> String? {
    let found = program.lines.compactMap { Self.event($0) }.filter { $0.subject == subject }
    return found.count == 1 ? found[0].verdict : nil
  }

  /// Everything that it has said so far, its texts alone.
  package var texts: [String] { program.lines.compactMap { Self.event($0)?.text } }

  package func signal(_ signal: Int32) throws { try program.process.send(signal: signal) }

  /// It and its worker processes; the parent first.
  package var processes: [Int32] { [program.pid] + Self.children(of: program.pid) }

  /// What its worker has started.
  package var grandchildren: [Int32] {
    Self.children(of: program.pid).flatMap { Self.children(of: $0) }
  }

  /// Those that the first thread of a process has started.
  private static func children(of pid: Int32) -> [Int32] {
    let path = "/proc/\(pid)/task/\(pid)/children"
    let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    return text.split(separator: " ").compactMap { Int32($0) }
  }

  /// Has all its processes stand still, or go on.
  package func stop(_ isStopped: Bool) throws {
    for pid in processes {
      try ProcessHandle.open(pid: pid).send(signal: isStopped ? SIGSTOP : SIGCONT)
    }
  }

  /// Ends both of its processes at once: the parent, so that nobody starts another worker, and the
  /// worker.
  package func kill() throws {
    let worker = try ProcessHandle.open(pid: try workerPid)
    try program.process.send(signal: SIGKILL)
    try worker.kill()
  }

  /// Ends the worker alone.
  package func killWorker() throws {
    let pid = try workerPid
    killedWorkers.insert(pid)
    try ProcessHandle.open(pid: pid).kill()
  }

  /// A worker that dies is started again, and nothing is lost: so a bug of ours that ends one would
  /// pass unseen.
  private func expectNoOtherDeath() {
    for text in texts where text.hasPrefix("the worker (pid ") && text.contains(") died: ") {
      let pid = Int32(text.dropFirst(16).prefix { $0 != ")" })
      guard pid.map({ !killedWorkers.contains($0) }) ?? true else { continue }
      Issue.record("\(text), and nobody has killed it:\n\(program.transcript)")
    }
  }

  private var workerPid: Int32 {
    get throws {
      let said = try waitFor("worker: pid ")
      return try #require(said.split(separator: " ").last.flatMap { Int32($0) })
    }
  }

  /// What it has reported, once it has ended.
  package var report: MigrationReport? {
    program.lines.compactMap(Self.event).last { $0.event == "finished" }?.report
  }

  /// The session that it has reported, once it has ended.
  package var session: String? { report?.session }

  /// Waits for its end.
  package func end() throws -> EngineEnd {
    let ending = try program.end()
    expectNoOtherDeath()
    let events = program.lines.compactMap(Self.event)
    let message = events.last { $0.event == "message" && ($0.text ?? "").contains("next:") }?.text
    return EngineEnd(
      ending: ending, report: events.last { $0.event == "finished" }?.report,
      message: message ?? program.transcript)
  }

  /// Waits for its end, which must be this one, told in full: the VM, what is wrong, the state of
  /// both sides, what to do.
  @discardableResult
  package func expectEnd(
    _ outcome: String, exitCode: Int32, saying words: String..., vm: String = "e2e",
    source: String? = nil, destination: String? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> EngineEnd {
    let end = try end()
    guard end.ending == .exited(code: exitCode), end.report?.outcome == outcome,
      end.report?.exitCode == exitCode
    else {
      throw HarnessError(
        description: "\(outcome) was expected, not \(end.ending):\n\(program.transcript)")
    }
    for part in ["VM \(vm): \(outcome)", "source:", "destination:", "next:"] + words
    where !part.isEmpty {
      #expect(end.message.contains(part), sourceLocation: sourceLocation)
    }
    if let source { #expect(end.report?.sourceState == source, sourceLocation: sourceLocation) }
    if let destination {
      #expect(end.report?.destinationState == destination, sourceLocation: sourceLocation)
    }
    return end
  }
}

/// The words of reports for what a host does with the VM.
package enum Phrase {
  package static let runs = "the VM runs"
  package static let stopped = "the VM is stopped, everything is kept"
  package static let disabled = "the VM can run no more, its memory is kept until completion"
  package static let killed = "the VM's process is gone"
  package static let untouched = "nothing was changed"
  package static let mayRun = "the VM may be running"
}
