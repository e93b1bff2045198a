import Foundation
import Glibc
import GuestKit
import Pages
import ProgramHarness
import Session
import System
import Testing

/// In which form the source's remainder is written.
struct ExportForm: Sendable, CustomTestStringConvertible {
  /// Readable without the token.
  var isPlain: Bool
  /// Without what the destination has, as its page states tell.
  var leavesOut: Bool

  static let all = [
    ExportForm(isPlain: false, leavesOut: false), ExportForm(isPlain: false, leavesOut: true),
    ExportForm(isPlain: true, leavesOut: false), ExportForm(isPlain: true, leavesOut: true),
  ]

  var testDescription: String {
    (isPlain ? "plain" : "sealed") + (leavesOut ? ", what is missing" : ", all pages")
  }
}

// A link that never comes back, and the file that takes its place.
extension Migration {
  /// Starts all, lets the destination's guest work for a while, and ends the source's processes:
  /// the destination runs with pages missing, and nobody has them for it.
  func startAndLoseSource() throws {
    try startUntilRunning()
    // So that what the destination has is told from what is missing by more than one chunk.
    try #require(destination).waitForProgress(operations: 100)
    try source.waitUntilDisabled()
    try #require(server).kill()
    _ = try server?.program.end()
    try receiver?.waitFor(event: "link-lost")
  }

  /// Writes the source's frozen memory as a file, under the lock and the journal of the source.
  func export(
    _ form: ExportForm = ExportForm(isPlain: false, leavesOut: false), to name: String
  ) throws -> String {
    let path = workspace.file(name)
    var arguments = try ["export", "--vm", Self.vmName, "--memory", memoryOption]
    arguments += ["--vmm", "microvm:\(source.socket)", "--token-file", workspace.file("token")]
    arguments += ["--state-dir", sourceStateDirectory, "--to", path]
    if form.isPlain { arguments.append("--plain") }
    if form.leavesOut { arguments += ["--missing", try carriedPageStates] }
    let program = try Program("page-server", [Binaries.path("page-server")] + arguments)
    guard try program.end() == .exited(code: 0) else {
      throw HarnessError(description: "export failed:\n\(program.transcript)")
    }
    #expect(try FileStatus.of(path: path).permissions & 0o777 == 0o600)
    return path
  }

  /// A copy of the destination's page states, as an operator carries it to the source.
  private var carriedPageStates: String {
    get throws {
      let directory = try StateDirectory.ofThisProcess(override: destinationStateDirectory)
      let overview = try #require(try SessionOverview.all(in: directory).overviews.first)
      let copy = workspace.file("page-state-of-the-destination")
      try FileManager.default.copyItem(
        atPath: directory.pageStatePath(of: overview.session), toPath: copy)
      return copy
    }
  }

  /// Copies an export to where it will be served; `change` is what befalls it on the way.
  func carry(
    _ path: String, as name: String, change: (inout [UInt8]) -> Void = { _ in }
  ) throws -> String {
    var bytes = try FileSystem.contents(ofSmallFile: path, maximumByteCount: 256 << 20)
    change(&bytes)
    return try workspace.write(bytes, to: name)
  }

  /// Serves an export as on a host that knows nothing of the session, where the source listened.
  /// `state` names the journals of that host.
  @discardableResult
  func serve(
    _ path: String, state: String, token: String? = nil, options: [String] = []
  ) throws -> Engine {
    let directory = state.hasPrefix("/") ? state : workspace.file(state)
    var arguments = ["send", "--vm", Self.vmName, "--memory", "export:\(path)", "--vmm", "none"]
    arguments += ["--token-file", token ?? workspace.file("token"), "--state-dir", directory]
    arguments += ["--listen", listenAddress] + options
    let server = try Engine("page-server", arguments)
    self.server = server
    return server
  }

  /// The export is refused for that reason, and nothing came of it: the destination waits on.
  func expectRefused(
    _ path: String, state: String, token: String? = nil, saying words: String
  ) throws {
    try serve(path, state: state, token: token)
      .expectEnd("refused", exitCode: 10, saying: words)
    try expectStillWaits()
  }

  /// The destination has lost nothing, and takes nothing in its place.
  func expectStillWaits() throws {
    let receiver = try #require(receiver)
    #expect(!receiver.program.hasEnded && receiver.count(ofEvent: "finished") == 0)
    try expectGuestWaits()
  }
}
