import FoundationEssentials
import Glibc
import GuestKit
import Pages
import System
import Testing
import VMM

/// A microvm in a process of its own, killed at the end of the test at the latest.
final class SpawnedMicrovm {
  let pid: Int32
  let socket: String

  /// The executable beside the test bundle that runs.
  private static func executable() throws -> String {
    let bundle = try #require(
      CommandLine.arguments.first { $0.contains(".xctest") }, "the test bundle's path")
    return bundle.split(separator: "/", omittingEmptySubsequences: false)
      .prefix { !$0.hasSuffix(".xctest") }.joined(separator: "/") + "/microvm"
  }

  /// Starts it, and waits until it says that it is ready.
  init(_ arguments: [String], in directory: String, name: String) throws {
    socket = "\(directory)/\(name).sock"
    let words = [try Self.executable(), "run", "--control", socket] + arguments
    var pipeEnds: [Int32] = [0, 0]
    #expect(unsafe pipe(&pipeEnds) == 0)
    defer { _ = close(pipeEnds[0]) }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawn_file_actions_adddup2(&actions, pipeEnds[1], STDOUT_FILENO)
    unsafe posix_spawn_file_actions_addclose(&actions, pipeEnds[0])
    var argv: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { for index in unsafe argv.indices { unsafe free(argv[index]) } }
    var child: pid_t = 0
    // unsafe: the strings and the list, ended by nil, live through the call.
    let result = unsafe posix_spawn(&child, words[0], &actions, nil, &argv, environ)
    unsafe posix_spawn_file_actions_destroy(&actions)
    _ = close(pipeEnds[1])
    try #require(result == 0, "microvm starts")
    pid = child
    var line = [UInt8](repeating: 0, count: 256)
    let count = unsafe read(pipeEnds[0], &line, line.count)
    let text = String(decoding: line.prefix(max(count, 0)), as: UTF8.self)
    try #require(text.hasPrefix("microvm: ready"), "microvm becomes ready: \(words)")
  }

  deinit {
    _ = kill(pid, SIGKILL)
    _ = waitpid(pid, nil, 0)
  }

  func ask(_ request: ControlRequest) throws -> ControlReply {
    try ControlClient.call(request, socket: socket)
  }

  func ask(_ verb: String) throws -> ControlReply { try ask(ControlRequest(verb)) }

  /// Asks, and expects that it was carried out.
  @discardableResult
  func order(
    _ verb: String, sourceLocation: SourceLocation = #_sourceLocation,
    _ fill: (inout ControlRequest) -> Void = { _ in }
  ) throws -> ControlReply {
    var request = ControlRequest(verb)
    request.timeoutMilliseconds = 20_000
    fill(&request)
    let reply = try ask(request)
    #expect(reply.ok, "\(verb): \(reply.error ?? "")", sourceLocation: sourceLocation)
    return reply
  }

  func waitForProgress(beyond count: UInt64) throws {
    try waitUntil("the guest makes progress") { (try ask("status").operations ?? 0) > count }
  }
}
