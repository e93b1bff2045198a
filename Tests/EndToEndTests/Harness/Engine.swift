import Foundation
import Glibc
import Pages
import Reporting
import System
import Testing

/// A line of `--json`.
struct EventLine: Decodable {
  var event: String
  var vm: String
  var level: String?
  var text: String?
  var report: MigrationReport?
}

/// How a `page-server send` or a `postcopyd receive` ended.
struct EngineEnd {
  var ending: ChildProcess.Ending
  var report: MigrationReport?
  /// The message for the operator.
  var message: String
}

/// A running `page-server send` or `postcopyd receive`.
final class Engine {
  let program: Program

  init(_ name: String, _ arguments: [String], prefix: [String] = []) throws {
    program = try Program(name, prefix + [Binaries.path(name)] + arguments + ["--json", "-v"])
  }

  private static func event(_ line: String) -> EventLine? {
    try? JSONDecoder().decode(EventLine.self, from: Data(line.utf8))
  }

  /// Waits until it has said something that contains `text`.
  @discardableResult
  func waitFor(_ text: String, until deadline: Instant = Patience.deadline()) throws -> String {
    let line = try program.line("“\(text)”", until: deadline) {
      Self.event($0)?.text?.contains(text) ?? false
    }
    return Self.event(line)?.text ?? ""
  }

  /// Waits until its core is in that state, or was.
  func waitFor(state: String) throws {
    try program.line("that its state is \(state)") { Self.event($0)?.text == "state: \(state)" }
  }

  /// Everything that it has said so far, its texts alone.
  var texts: [String] { program.lines.compactMap { Self.event($0)?.text } }

  func signal(_ signal: Int32) throws { try program.process.send(signal: signal) }

  /// Ends both of its processes at once: the parent, so that nobody starts another worker, and the
  /// worker.
  func kill() throws {
    let worker = try ProcessHandle.open(pid: try workerPid)
    try program.process.send(signal: SIGKILL)
    try worker.kill()
  }

  /// Ends the worker alone.
  func killWorker() throws { try ProcessHandle.open(pid: try workerPid).kill() }

  private var workerPid: Int32 {
    get throws {
      let said = try waitFor("worker: pid ")
      return try #require(said.split(separator: " ").last.flatMap { Int32($0) })
    }
  }

  /// The session that it has reported, once it has ended.
  var session: String? {
    program.lines.compactMap(Self.event).last { $0.event == "finished" }?.report?.session
  }

  /// Waits for its end.
  func end() throws -> EngineEnd {
    let ending = try program.end()
    let events = program.lines.compactMap(Self.event)
    let message = events.last { $0.event == "message" && ($0.text ?? "").contains("next:") }?.text
    return EngineEnd(
      ending: ending, report: events.last { $0.event == "finished" }?.report,
      message: message ?? program.transcript)
  }

  /// Waits for its end, which must be this one, told in full: the VM, what is wrong, the state of
  /// both sides, what to do.
  @discardableResult
  func expectEnd(
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
enum Phrase {
  static let runs = "the VM runs"
  static let stopped = "the VM is stopped, everything is kept"
  static let disabled = "the VM can run no more, its memory is kept until completion"
  static let killed = "the VM's process is gone"
  static let untouched = "nothing was changed"
  static let mayRun = "the VM may be running"
}
