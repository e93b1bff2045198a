import ArgumentParser
import FoundationEssentials
import GuestKit
import Pages
import System
import VMM

/// `microvm ctl`: one verb to a running microvm.
struct ControlCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ctl", abstract: "Send one verb to a running microvm and print the answer.")

  @Argument(help: "The control socket.")
  var socket: String

  @Argument(help: "The verb, such as status, pause, resume, verify, quit.")
  var verb: String

  @Option(help: "The file of dump, the socket of attach.")
  var path: String?

  @Option(help: "The first data page of remove.")
  var page: Int?

  @Option(help: "The number of data pages of remove.")
  var count: Int?

  @Option(help: "The dialect of attach.")
  var dialect: String?

  @Option(help: "How long pause and disable wait, in milliseconds.")
  var timeout: UInt64?

  @Option(help: "File to read vCPU state from, for load-state; to write it to, for save-state.")
  var state: String?

  func run() throws {
    var request = ControlRequest(verb)
    request.path = path
    request.page = page
    request.count = count
    request.dialect = dialect
    request.timeoutMilliseconds = timeout
    if let state, verb == "load-state" {
      request.vmState = try Data(contentsOf: URL(filePath: state))
    }
    var reply = try ControlClient.call(request, socket: socket)
    if let state, verb == "save-state", let bytes = reply.vmState {
      try bytes.write(to: URL(filePath: state))
      reply.vmState = nil
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
    Terminal.printLine(String(decoding: try encoder.encode(reply), as: UTF8.self))
    guard reply.ok else { throw ExitCode.failure }
  }
}
