import CLinux
import Glibc
import Pages
import System
import Testing
import UFFD

@testable import Session

/// Whether a process can have a userfaultfd here, and look at another one's.
private let hasUserfault: Bool = (try? UserfaultDescriptor.offeredFeatures()) != nil

@Suite(
  "Parents and workers", .timeLimit(.minutes(5)),
  .enabled(if: hasUserfault, "needs a userfaultfd"))
struct SupervisorTests {
  let scratch: ScratchDirectory
  let vmm: TestProcess
  /// The test's own duplicate of the VMM's userfaultfd, to know it again elsewhere. It keeps nobody
  /// from closing theirs.
  let userfault: KeptDescriptor

  init() throws {
    scratch = try ScratchDirectory()
    vmm = try TestProcess("vmm")
    try vmm.line("vmm \(vmm.pid) holds 2")
    var taken = try TakenDescriptor.userfaultfds(of: vmm.process.handle)
    // Held twice, under two numbers: one open file.
    let count = taken.count
    try #require(count == 1)
    guard let descriptor = taken.takeFirst() else {
      throw TestProcessError(description: "the VMM holds none")
    }
    userfault = KeptDescriptor(name: "test", descriptor)
  }

  private func parent(
    _ mode: String = "begin", restarts: Int = 100, store: String = ""
  ) throws -> TestProcess {
    store.isEmpty
      ? try TestProcess("parent", scratch.path, "\(vmm.pid)", mode, "\(restarts)")
      : try TestProcess("parent", scratch.path, "\(vmm.pid)", mode, "\(restarts)", store)
  }

  private func vmmClosesItsOwn() throws {
    try vmm.process.send(signal: SIGHUP)
    try vmm.line("vmm holds 0")
  }

  private func holdsIt(_ pid: Int32) throws -> Bool {
    try DescriptorIdentity.numberOfUserfault(userfault.descriptor, heldBy: pid) != nil
  }

  private var controlSocketPath: String {
    get throws {
      StateDirectory(statePath: scratch.path("state"), runPath: scratch.path("run"))
        .controlSocketPath(ofVM: try VMName("test"), side: .destination)
    }
  }

  @Test("A worker that is killed is started again with the same userfaultfd")
  func workerKilled() throws {
    let parent = try parent()
    try parent.line("userfaultfd taken")
    let first = try parent.worker("begin")
    #expect(try holdsIt(first))
    try vmmClosesItsOwn()
    try OtherProcess(pid: first).kill()
    #expect(try parent.line("died") == "signal 9")
    try parent.line("restarting 1")
    try parent.line("userfaultfd inherited")
    let second = try parent.worker("recover")
    #expect(second != first)
    #expect(try holdsIt(second))
    #expect(try holdsIt(parent.pid))
  }

  @Test("A parent that is killed leaves a worker that the next one adopts and starts again")
  func parentKilled() throws {
    let first = try parent()
    let worker = try first.worker("begin")
    let orphan = try OtherProcess(pid: worker)
    try vmmClosesItsOwn()
    try first.process.send(signal: SIGKILL)
    #expect(try first.end() == .killed(signal: SIGKILL))
    let client = try ControlSocketClient(path: controlSocketPath)
    #expect(try client.ask(.status).status?.state == "begin")
    let second = try parent("recover")
    #expect(try second.line("adopted") == "\(worker)")
    // Its events come over the control socket now: its own output is the first parent's.
    try second.process.send(signal: SIGHUP)
    try second.line("event {\"heard\":\"SIGHUP\"}")
    #expect(!orphan.hasEnded)
    #expect(try holdsIt(second.pid))
    try orphan.kill()
    try second.line("died without a last word")
    try second.line("userfaultfd inherited")
    let next = try second.worker("recover")
    #expect(try holdsIt(next))
  }

  @Test("When both are killed, the next worker takes the VMM's own duplicate")
  func bothKilled() throws {
    let first = try parent()
    let worker = try first.worker("begin")
    try first.process.send(signal: SIGKILL)
    _ = try first.end()
    try OtherProcess(pid: worker).kill()
    let second = try parent("recover")
    try second.line("userfaultfd taken")
    #expect(try holdsIt(try second.worker("recover")))
  }

  @Test("Workers that die at once are given up, and the parent ends parked")
  func storm() throws {
    let parent = try parent("die", restarts: 3)
    #expect(
      try parent.line("parked") == "its process died again (signal 9) after 3 restarts")
    #expect(try parent.end() == .exited(code: 12))
    #expect(parent.lines.filter { $0.hasPrefix("started") }.count == 4)
  }

  @Test("Without a way to go on, the first death parks")
  func noRestart() throws {
    let parent = try parent("die", restarts: 0)
    #expect(try parent.line("parked") == "its process died (signal 9)")
    #expect(try parent.end() == .exited(code: 12))
  }

  @Test("Each signal reaches the worker once, and the parent ends as the worker does")
  func signals() throws {
    let parent = try parent()
    _ = try parent.worker("begin")
    for signal in [SIGHUP, SIGINT, SIGTERM] {
      try parent.process.send(signal: signal)
      try parent.line("worker heard")
    }
    try parent.process.send(signal: SIGTERM)
    #expect(try parent.line("ended") == "12")
    #expect(try parent.end() == .exited(code: 12))
    #expect(
      parent.lines.filter { $0.hasPrefix("worker heard") } == [
        "worker heard SIGHUP", "worker heard SIGINT", "worker heard SIGTERM",
        "worker heard SIGTERM",
      ])
    #expect(!parent.lines.contains { $0.hasPrefix("staying") })
  }

  @Test("A signal that comes before the worker listens waits for it")
  func earlySignal() throws {
    let parent = try parent()
    try parent.line("started")
    // Most likely before the worker's main; in any order, nothing dies of it.
    try parent.process.send(signal: SIGTERM)
    try parent.line("worker heard SIGTERM")
    try parent.process.send(signal: SIGTERM)
    #expect(try parent.end() == .exited(code: 12))
    #expect(!parent.lines.contains { $0.hasPrefix("died") })
  }

  @Test("The last holder of a userfaultfd stays until the VMM has ended")
  func stays() throws {
    let parent = try parent()
    _ = try parent.worker("begin")
    try vmmClosesItsOwn()
    try parent.process.send(signal: SIGTERM)
    try parent.line("worker heard")
    try parent.process.send(signal: SIGTERM)
    #expect(try parent.line("staying").contains("(pid \(vmm.pid)) keeps no duplicate"))
    for signal in ["SIGTERM", "SIGINT"] {
      try parent.process.send(signal: signal == "SIGTERM" ? SIGTERM : SIGINT)
      try parent.line("refused \(signal)")
    }
    #expect(try holdsIt(parent.pid))
    #expect(!parent.hasEnded)
    try vmm.process.send(signal: SIGTERM)
    #expect(try parent.end() == .exited(code: 12))
  }

  @Test("What is released is closed, and keeps no parent")
  func released() throws {
    let parent = try parent()
    _ = try parent.worker("begin")
    try vmmClosesItsOwn()
    try ControlSocketClient(path: controlSocketPath).ask(.abort)
    #expect(try parent.line("ended") == "0")
    #expect(try parent.end() == .exited(code: 0))
    #expect(!parent.lines.contains { $0.hasPrefix("staying") })
  }

  @Test("A worker whose parent lives is not adopted")
  func secondParent() throws {
    let first = try parent()
    _ = try first.worker("begin")
    let second = try parent("recover")
    #expect(try second.line("refused").contains("has a keeper, which lives"))
    #expect(try second.end() == .exited(code: 10))
    #expect(!first.hasEnded)
  }

  @Test("An adopted worker's exit code is the adopter's")
  func adoptedEnds() throws {
    let first = try parent()
    let orphan = try OtherProcess(pid: try first.worker("begin"))
    try first.process.send(signal: SIGKILL)
    _ = try first.end()
    let second = try parent("begin")
    try second.line("adopted")
    try ControlSocketClient(path: controlSocketPath).ask(.abort)
    #expect(try second.line("ended") == "0")
    #expect(try second.end() == .exited(code: 0))
    #expect(orphan.hasEnded)
  }

  @Test("A service manager gets each descriptor to keep, and is told to forget them")
  func serviceManager() throws {
    let manager = try DatagramSocket(path: scratch.path("notify"))
    let parent = try parent(store: manager.path)
    _ = try parent.worker("begin")
    let stored = try [manager.receive(), manager.receive()]
    #expect(
      stored.map(\.text) == [
        "FDSTORE=1\nFDNAME=userfaultfd\nFDPOLL=0\n", "FDSTORE=1\nFDNAME=vmm\nFDPOLL=0\n",
      ])
    let copy = try #require(stored[0].descriptor)
    #expect(
      DescriptorIdentity.isSameOpenFile(copy.descriptor.rawValue, userfault.descriptor.rawValue))
    try ControlSocketClient(path: controlSocketPath).ask(.abort)
    let removed = try [manager.receive(), manager.receive()]
    #expect(
      removed.map(\.text) == [
        "FDSTOREREMOVE=1\nFDNAME=userfaultfd\n", "FDSTOREREMOVE=1\nFDNAME=vmm\n",
      ])
    #expect(try parent.end() == .exited(code: 0))
  }
}

/// A service manager's socket, in small.
final class DatagramSocket {
  struct Message {
    let text: String
    let descriptor: KeptDescriptor?
  }

  let path: String
  private let stream: DescriptorStream

  init(path: String) throws {
    let number = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    try #require(number >= 0)
    stream = DescriptorStream(adopting: OwnedDescriptor(adopting: number))
    self.path = path
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    try #require(length > 0)
    // unsafe: the address is a local variable of the length that was just filled in.
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(number, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    try #require(result == 0)
  }

  func receive() throws -> Message {
    var bytes = [UInt8](repeating: 0, count: 4096)
    var descriptors = DescriptorList()
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
    let received = try stream.receive(into: &bytes, descriptors: &descriptors, until: deadline)
    guard case .bytes(let count) = received else {
      throw TestProcessError(description: "no message to the service manager: \(received)")
    }
    let text = String(decoding: bytes[..<count], as: UTF8.self)
    guard let descriptor = descriptors.takeFirst() else {
      return Message(text: text, descriptor: nil)
    }
    return Message(text: text, descriptor: KeptDescriptor(name: "stored", descriptor))
  }
}
