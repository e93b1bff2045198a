internal import Foundation
internal import LinkFaultKit
internal import Pages
internal import Reporting
internal import System

/// A run did not come to its end.
struct RunError: Error, CustomStringConvertible {
  let description: String
}

/// Between the two sides.
struct Link {
  /// For the table.
  let name: String
  /// What makes the demo use it.
  let options: [String]
  /// What it carries.
  let bytesPerSecond: Double
}

/// What one migration came to.
struct Run {
  /// From its first page, or the freeze where there are no rounds, to its last page.
  var totalNanoseconds: UInt64
  var downtimeNanoseconds: UInt64
  /// Bytes on the link for each byte of the guest's memory.
  var bytesPerMemory: Double
  /// Bytes on the link for each byte of the pages that were not zero at the freeze.
  var bytesPerNonZero: Double
  /// Pages that the guest had to wait for at the destination.
  var faultCount: UInt64
  var stallP50Nanoseconds: UInt64?
  var stallP99Nanoseconds: UInt64?
  var stallMaximumNanoseconds: UInt64
  /// What the guest did while its pages were pulled, of what it would have done; nil where it was
  /// too short to tell.
  var progress: Double?
}

/// What `microvm compare --report` writes: only when no page is wrong.
struct Comparison: Decodable {
  let nonZeroPages: Int
}

/// Starts the demo, and reads what both sides have told.
struct Runner {
  let demo: String
  let memory: String
  let vcpus: Int
  let noise: Int
  let maxTime: Int

  /// More than the demo gives itself for a guest of 4 GiB; one that hangs ends the comparison.
  private static let limitNanoseconds: UInt64 = 600_000_000_000

  /// Loopback's rate is measured, by what an idle guest's memory takes in quick mode.
  func link(named name: String) throws -> Link {
    if let megabits = Int(name) {
      return Link(
        name: "\(megabits) Mbit/s", options: ["--namespaces", "--link-rate", "\(megabits)mbit"],
        bytesPerSecond: Double(megabits) * 125_000)
    }
    let unknown = Link(name: "loopback", options: [], bytesPerSecond: 0)
    let run = try run("quick", packing: "none", over: unknown, rate: 1)
    let seconds = Double(run.totalNanoseconds) / 1e9
    return Link(
      name: "loopback", options: [], bytesPerSecond: run.bytesPerMemory * memoryByteCount / seconds)
  }

  /// One migration.
  func run(
    _ mode: String, packing compression: String, over link: Link, rate: Int
  ) throws -> Run {
    let directory = "/tmp/postcopy-modes-\(ProcessInfo.processInfo.processIdentifier)"
    defer { try? FileManager.default.removeItem(atPath: directory) }
    let program = try WatchedProgram(
      [
        demo, "--no-build", "--memory", memory, "--vcpus", "\(vcpus)", "--mode", mode,
        "--pattern", "rate-limited-write", "--rate", "\(rate)", "--max-time", "\(maxTime)",
        "--reports", directory, "--compression", compression, "--noise", "\(noise)",
      ] + link.options)
    let limit = MonotonicClock.now().advanced(byNanoseconds: Self.limitNanoseconds)
    guard program.process.waitForEnd(until: limit) == .exited(code: 0) else {
      try? program.process.handle.kill()
      throw RunError(description: "\(mode) over \(link.name) failed:\n\(program.transcript)")
    }
    return try Run(
      source: report("\(directory)/source.jsonl"),
      destination: report("\(directory)/destination.jsonl"),
      comparison: comparison("\(directory)/comparison.json"), memory: memoryByteCount,
      writesPerSecond: Double(rate * vcpus))
  }

  private var memoryByteCount: Double {
    let number = Double(memory.dropLast()) ?? 0
    return number * (memory.hasSuffix("G") ? 1_073_741_824 : 1_048_576)
  }

  /// A line of `--json`.
  private struct Event: Decodable {
    let event: String
    let report: MigrationReport?
  }

  private func comparison(_ path: String) throws -> Comparison {
    try JSONDecoder().decode(
      Comparison.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
  }

  private func report(_ path: String) throws -> MigrationReport {
    let text = try String(contentsOfFile: path, encoding: .utf8)
    for line in text.split(separator: "\n").reversed() {
      guard let event = try? JSONDecoder().decode(Event.self, from: Data(line.utf8)),
        let report = event.report
      else { continue }
      return report
    }
    throw RunError(description: "\(path) holds no report")
  }
}

extension Run {
  init(
    source: MigrationReport, destination: MigrationReport, comparison: Comparison,
    memory: Double, writesPerSecond: Double
  ) {
    totalNanoseconds = source.phases.reduce(0) { $0 + $1.nanoseconds }
    downtimeNanoseconds = source.downtime?.nanoseconds ?? 0
    let byteCount = Double(source.bytes.demanded + source.bytes.pushed)
    bytesPerMemory = byteCount / memory
    bytesPerNonZero = byteCount / Double(comparison.nonZeroPages * 4096)
    faultCount = destination.faults?.count ?? 0
    stallP50Nanoseconds = destination.faults?.p50Nanoseconds
    stallP99Nanoseconds = destination.faults?.p99Nanoseconds
    stallMaximumNanoseconds = destination.faults?.maximumNanoseconds ?? 0
    let pull = destination.phases.first { $0.name == "running to all resident" }?.nanoseconds ?? 0
    let done = Double(destination.guest?.operationsAfterStart ?? 0)
    let due = writesPerSecond * Double(pull) / 1e9
    // A share of a few operations would be chance.
    progress = due >= 100 ? done / due : nil
  }
}
