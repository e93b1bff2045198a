import Foundation
import Glibc
package import GuestKit
import Pages
import System
import Testing
import VMM

/// The shape of a guest: the same at both ends of a migration.
package struct GuestShape: Sendable, CustomTestStringConvertible {
  package var memory = "16M"
  package var vcpus = 1
  package var pattern = "random-write"
  package var pageSize = "4K"
  package var backing = "memfd"
  package var regions = 1
  /// Threads instead of KVM, also where there is KVM.
  package var isProcess = false
  package var seed: UInt64 = 1
  /// More options of `microvm run`.
  package var more: [String] = []

  package init(
    memory: String = "16M", vcpus: Int = 1, pattern: String = "random-write",
    pageSize: String = "4K", backing: String = "memfd", regions: Int = 1, isProcess: Bool = false,
    seed: UInt64 = 1, more: [String] = []
  ) {
    self.memory = memory
    self.vcpus = vcpus
    self.pattern = pattern
    self.pageSize = pageSize
    self.backing = backing
    self.regions = regions
    self.isProcess = isProcess
    self.seed = seed
    self.more = more
  }

  package var options: [String] {
    [
      "--memory", memory, "--vcpus", "\(vcpus)", "--pattern", pattern, "--page-size", pageSize,
      "--regions", "\(regions)", "--seed", "\(seed)",
    ] + (isProcess ? ["--guest", "process"] : []) + more
  }

  package var testDescription: String {
    "\(memory) \(vcpus) vCPU \(pattern) \(pageSize) \(backing)"
      + (regions > 1 ? " \(regions) regions" : "") + (isProcess ? " process" : "")
      + (more.isEmpty ? "" : " " + more.joined(separator: " "))
  }
}

/// A running microvm.
package final class TestVM {
  package let program: Program
  package let socket: String
  package let memoryFile: String?
  package private(set) var descriptorsAtStart: [String] = []

  /// Starts one; `prefix` comes before the command. Wait with `waitUntilReady`.
  package init(
    _ name: String, _ shape: GuestShape, in workspace: Workspace, prefix: [String] = [],
    incoming: [String]? = nil
  ) throws {
    socket = workspace.file("\(name).sock")
    var backing = shape.backing
    var memoryFile: String?
    if backing == "file" {
      // Named after its workspace, so that whoever leaves it behind can be found.
      let place = shape.pageSize == "4K" ? "/dev/shm" : "/dev/hugepages"
      let path = "\(place)/\(workspace.path.split(separator: "/").last!)-\(name)"
      backing = "file:\(path)"
      memoryFile = path
    }
    self.memoryFile = memoryFile
    var arguments = prefix + [Binaries.path("microvm"), "run", "--control", socket]
    arguments += shape.options + ["--backing", backing]
    if let incoming { arguments += ["--incoming"] + incoming }
    program = try Program(name, arguments)
  }

  deinit { if let memoryFile { _ = unsafe unlink(memoryFile) } }

  package func waitUntilReady() throws {
    try program.line("that it is ready") { $0.hasPrefix("microvm: ready") }
    descriptorsAtStart = descriptors
  }

  /// What its process has open, each by what it is.
  package var descriptors: [String] {
    Workspace.names(in: "/proc/\(program.pid)/fd").map { number in
      (try? FileManager.default.destinationOfSymbolicLink(
        atPath: "/proc/\(program.pid)/fd/\(number)")) ?? ""
    }.map { String($0.prefix { $0 != "[" }) }.sorted()
  }

  /// How many threads wait for a page of its memory, by what the kernel tells of its userfaultfds:
  /// "total" counts those that a handler has read and those that nobody has.
  package var waitingFaultCount: Int {
    get throws {
      let directory = "/proc/\(program.pid)"
      var count = 0
      for number in Workspace.names(in: "\(directory)/fd") {
        let target = try? FileManager.default.destinationOfSymbolicLink(
          atPath: "\(directory)/fd/\(number)")
        guard target == "anon_inode:[userfaultfd]" else { continue }
        let text = try String(contentsOfFile: "\(directory)/fdinfo/\(number)", encoding: .utf8)
        count += try #require(Self.total(ofWaiting: text))
      }
      return count
    }
  }

  private static func total(ofWaiting text: String) -> Int? {
    let line = text.split(separator: "\n").first { $0.hasPrefix("total:") }
    return line?.split(separator: "\t").last.flatMap { Int($0) }
  }

  /// It keeps open nothing that came with the migration. What belonged to a client that has gone
  /// is closed a moment later.
  package func expectNoMoreDescriptors() throws {
    let deadline = Patience.deadline(seconds: 5)
    while !newDescriptors.isEmpty, MonotonicClock.now() < deadline { try program.pause() }
    #expect(newDescriptors == [])
  }

  /// What is open beyond what was at the start.
  private var newDescriptors: [String] {
    var known = descriptorsAtStart
    return descriptors.filter { name in
      guard let index = known.firstIndex(of: name) else { return true }
      known.remove(at: index)
      return false
    }
  }

  package func call(
    _ request: ControlRequest, seconds: UInt64 = Patience.usualSeconds
  ) throws -> ControlReply {
    let deadline = Patience.deadline(seconds: seconds)
    return try JSONLineClient.connect(socket, deadline: deadline)
      .call(request, replyingWith: ControlReply.self, deadline: deadline)
  }

  /// Carries a verb out, or fails the test.
  @discardableResult
  package func must(_ verb: String) throws -> ControlReply {
    let reply = try call(ControlRequest(verb))
    guard reply.ok else {
      throw HarnessError(
        description: "\(program.name): \(verb): \(reply.error ?? "?") \(reply.findings ?? [])")
    }
    return reply
  }

  package var status: ControlReply { get throws { try must("status") } }

  /// Waits until the guest has done that many operations more than now; a stopped guest never does.
  package func waitForProgress(
    operations: UInt64 = 300, seconds: UInt64 = Patience.usualSeconds
  ) throws {
    let deadline = Patience.deadline(seconds: seconds)
    var goal: UInt64?
    while true {
      let reply = try status
      if let done = reply.operations {
        if let goal, done >= goal { return }
        if goal == nil { goal = done + operations }
      }
      #expect(reply.mismatches?.isEmpty ?? true, "the guest found wrong pages")
      guard MonotonicClock.now() < deadline else {
        throw HarnessError(
          description: "\(program.name)'s guest makes no progress: \(reply.state ?? "?")")
      }
      try program.pause()
    }
  }

  /// Waits until it can run no more: its VM was handed over.
  package func waitUntilDisabled() throws {
    let deadline = Patience.deadline()
    while try status.state != "disabled" {
      guard MonotonicClock.now() < deadline else {
        throw HarnessError(description: "\(program.name) is not disabled")
      }
      try program.pause()
    }
  }

  /// The VM lives: its guest works, and every page of it is right.
  package func expectRunsAndVerifies() throws {
    #expect(try status.state == "running")
    try waitForProgress()
    try must("pause")
    let reply = try must("verify")
    #expect(reply.findingCount == 0)
    try must("resume")
    try waitForProgress(operations: 50)
  }

  /// Ends it in good order.
  package func quit() throws {
    try must("quit")
    #expect(try program.end() == .exited(code: 0))
  }

  package func signal(_ signal: Int32) throws { try program.process.send(signal: signal) }
}
