import ArgumentParser
import Foundation
import GuestKit
import Pages
import System

/// `microvm compare`: is the destination's memory the source's, moved without a loss?
struct CompareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract: "Compare a paused destination with the source's memory at the freeze.",
    discussion: """
      The destination is read at its host addresses through /proc/PID/mem: what its guest sees. \
      Exit code 0 only when every page is explained.
      """)

  @Option(help: "The source's frozen memory: a dump, or its memory file.")
  var sourceImage: String?

  @Option(help: "The source's control socket, when it still holds its memory.")
  var source: String?

  @Option(help: "The destination's control socket.")
  var destination: String

  @Option(
    help: ArgumentHelp(
      "Where to write what was found, as JSON, if all is right.",
      valueName: "path"))
  var report: String?

  /// What `--report` tells.
  private struct Report: Encodable {
    let unchangedPages: Int
    let rewrittenPages: Int
    let removedPages: Int
    /// Pages of the source that held anything but zeros.
    let nonZeroPages: Int
  }

  func validate() throws {
    guard (sourceImage == nil) != (source == nil) else {
      throw ValidationError("say either --source-image or --source")
    }
  }

  func run() throws {
    let right = try Self.memory(of: destination)
    if let sourceImage {
      try compare(ImageFile(path: sourceImage), right)
    } else {
      try compare(Self.memory(of: source ?? ""), right)
    }
  }

  private func compare(_ left: some ImageReading, _ right: ProcessImage) throws {
    let comparison = try ImageComparison(source: left, destination: right)
    for sentence in comparison.findings.sentences {
      StandardError.print("microvm compare: \(sentence)")
    }
    guard comparison.findings.count == 0 else {
      StandardError.print("microvm compare: FAILED with \(comparison.findings.count) findings")
      throw ExitCode.failure
    }
    Terminal.printLine(
      "microvm compare: ok, \(comparison.unchangedPages) pages unchanged, "
        + "\(comparison.rewrittenPages) rewritten, \(comparison.removedPages) given back, "
        + "\(comparison.writesSince) writes and \(comparison.operationsSince) operations since")
    guard let report else { return }
    let found = Report(
      unchangedPages: comparison.unchangedPages, rewrittenPages: comparison.rewrittenPages,
      removedPages: comparison.removedPages, nonZeroPages: try left.nonZeroPageCount())
    try JSONEncoder().encode(found).write(to: URL(fileURLWithPath: report))
  }

  private static func memory(of socket: String) throws -> ProcessImage {
    try ProcessImage(status: ControlClient.call(ControlRequest("status"), socket: socket))
  }
}
