import Glibc
import GuestKit
import Pages
import System
import Testing
import UFFD

@testable import GuestKit

/// What came over the attach socket.
struct HandOff: ~Copyable {
  var text: String
  var descriptors: DescriptorList
  var stream: DescriptorStream
}

enum UserfaultCapability {
  static let isAllowed = (try? UserfaultDescriptor(requiring: [.removeEvents])) != nil
}

/// Accepts one VMM. It has sent everything when this returns: one message.
func receiveHandOff(_ listener: borrowing DescriptorListener) throws -> HandOff {
  guard let stream = try listener.accept(until: limit()) else {
    throw ControlFailure(.timeout, "no VMM attached")
  }
  var bytes = [UInt8](repeating: 0, count: 65_536)
  var descriptors = DescriptorList()
  guard
    case .bytes(let count) = try stream.receive(
      into: &bytes, descriptors: &descriptors, until: limit())
  else { throw ControlFailure(.failed, "the VMM sent nothing") }
  return HandOff(
    text: String(decoding: bytes.prefix(count), as: UTF8.self), descriptors: descriptors,
    stream: stream)
}

@Suite(
  .serialized, .enabled(if: UserfaultCapability.isAllowed, "needs the right to use userfaultfd"))
struct AttachTests {
  @Test(arguments: AttachDialect.allCases)
  func eachGenerationSendsItsBytes(dialect: AttachDialect) throws {
    try TestFiles.withDirectory { directory in
      let listener = try DescriptorListener(path: "\(directory)/handler.sock")
      var options = MachineOptions.small(.process)
      options.regionCount = 2
      options.isIncoming = true
      let machine = try TestMachine(options)
      try machine.attach(path: listener.path, dialect: dialect)
      let handOff = try receiveHandOff(listener)
      let (first, second) = (machine.memory.regions[0], machine.memory.regions[1])
      let tail =
        switch dialect {
        case .first: ""
        case .pageSizeKib: ",\"page_size_kib\":4096"
        case .pageSize, .twoDescriptors: ",\"page_size\":4096,\"page_size_kib\":4096"
        }
      let expected =
        "[{\"base_host_virt_addr\":\(first.hostAddress),\"size\":8388608,\"offset\":0\(tail)},"
        + "{\"base_host_virt_addr\":\(second.hostAddress),\"size\":8388608,\"offset\":8388608"
        + "\(tail)}]"
      #expect(handOff.text == expected)
      let descriptorCount = handOff.descriptors.count
      #expect(descriptorCount == (dialect == .twoDescriptors ? 2 : 1))
      let closesAtOnce = dialect == .first || dialect == .pageSizeKib
      let hasEnded = handOff.stream.hasEnded()
      #expect(hasEnded == closesAtOnce)
      #expect(machine.attachment.isAttached)
      #expect(machine.attachment.isHandlerConnected == !closesAtOnce)
      #expect(throws: ControlFailure.self) {
        try machine.attach(path: "\(directory)/handler.sock", dialect: dialect)
      }
    }
  }

  @Test func nobodyListeningIsAnError() throws {
    var options = MachineOptions.small(.process)
    options.isIncoming = true
    let machine = try TestMachine(options)
    #expect(throws: ControlFailure.self) {
      try machine.attach(path: "/nonexistent/handler.sock", dialect: .pageSize)
    }
    #expect(!machine.attachment.isAttached)
  }

  @Test func privateMemoryHasNoSecondDescriptor() throws {
    try TestFiles.withDirectory { directory in
      let listener = try DescriptorListener(path: "\(directory)/handler.sock")
      var options = MachineOptions.small(.process)
      options.backing = .anonymous
      options.isIncoming = true
      let machine = try TestMachine(options)
      let path = listener.path
      #expect(throws: ControlFailure.self) {
        try machine.attach(path: path, dialect: .twoDescriptors)
      }
      // Nothing stays registered: the memory can be touched.
      #expect(machine.memory.word(at: 0) == 0)
    }
  }

  struct Case: Sendable, CustomTestStringConvertible {
    var guest: GuestKind
    var backing: String
    var pageSize = "4K"
    var regions = 1
    var testDescription: String { "\(guest.rawValue) \(backing) \(pageSize) \(regions) regions" }
  }

  static let cases =
    Capability.guests.flatMap { guest in
      [
        Case(guest: guest, backing: "memfd"),
        Case(guest: guest, backing: "private", regions: 3),
      ]
        + (Capability.hasHugePages
          ? [
            Case(guest: guest, backing: "memfd", pageSize: "2M"),
            Case(guest: guest, backing: "private", pageSize: "2M"),
          ] : [])
    }

  /// A whole post-copy migration between two processes, with a handler in this one.
  @Test(arguments: cases)
  func aGuestMovesToAnotherProcess(move: Case) throws {
    try TestFiles.withDirectory { directory in
      let shape = [
        "--memory", "16M", "--guest", move.guest.rawValue, "--backing", move.backing,
        "--page-size", move.pageSize, "--regions", "\(move.regions)",
      ]
      let source = try SpawnedMicrovm(
        shape + ["--pattern", "random", "--remove-every", "40"], in: directory, name: "a")
      try source.waitForProgress(beyond: 500)
      try source.order("pause")
      try source.order("dump") { $0.path = "\(directory)/frozen.img" }
      let state = try #require(try source.order("save-state").vmState)

      let listener = try DescriptorListener(path: "\(directory)/handler.sock")
      let destination = try SpawnedMicrovm(
        shape + ["--incoming", "--attach", listener.path], in: directory, name: "b")
      var handOff = try receiveHandOff(listener)
      let status = try destination.ask("status")
      #expect(status.attached == true)
      #expect(status.operations == nil)
      guard let userfault = handOff.descriptors.takeFirst() else {
        throw ControlFailure(.failed, "no descriptor came")
      }
      let image = try ImageFile(path: "\(directory)/frozen.img")
      let handler = try TestHandler(userfault, of: status, from: image)
      try destination.order("load-state") { $0.vmState = state }
      try destination.order("run")
      try source.order("disable")
      let before = try #require(try source.ask("status").operations)
      try destination.waitForProgress(beyond: before + 500)
      try destination.order("pause")
      try destination.order("verify")
      #expect(handler.failure == nil)
      #expect(handler.faultCount > 0)
      #expect(handler.removedPages > 0)
      let paused = try destination.ask("status")
      #expect(paused.mismatches?.isEmpty == true)
      let comparison = try ImageComparison(source: image, destination: ProcessImage(status: paused))
      #expect(comparison.findings == Findings())
      #expect(comparison.operationsSince >= 500)
      handler.stop()
    }
  }

  /// A vCPU that waits for a page does not stop for a signal (measured on Linux 6.18): pausing is
  /// bounded, says so, and comes true when the page arrives.
  @Test(arguments: Capability.guests)
  func aVcpuThatWaitsForAPageStopsWhenItComes(guest: GuestKind) throws {
    try withHeldGuest(guest) { destination, handler in
      var request = ControlRequest("pause")
      request.timeoutMilliseconds = 50
      let reply = try destination.ask(request)
      #expect(!reply.ok)
      #expect(reply.code == "timeout")
      #expect(reply.state == "pausing")
      #expect(reply.waitingVcpus?.isEmpty == false)
      #expect(try destination.ask("verify").code == "bad-state")
      handler.release()
      try destination.order("pause")
      #expect(try destination.ask("status").state == "paused")
      try destination.order("verify")
    }
  }

  /// The VMM keeps a duplicate: without its handler the guest freezes, and never reads zeros.
  @Test(arguments: Capability.guests)
  func aDeadHandlerFreezesTheGuest(guest: GuestKind) throws {
    try withHeldGuest(guest) { destination, handler in
      handler.stop()
      var request = ControlRequest("pause")
      request.timeoutMilliseconds = 50
      let reply = try destination.ask(request)
      #expect(reply.code == "timeout")
      let status = try destination.ask("status")
      #expect(status.mismatches?.isEmpty == true)
    }
  }

  /// A destination whose vCPUs run into a handler that answers nothing but the state's load.
  private func withHeldGuest(
    _ guest: GuestKind, _ body: (SpawnedMicrovm, TestHandler) throws -> Void
  ) throws {
    try TestFiles.withDirectory { directory in
      let options = MachineOptions.small(guest, "random", operations: nil)
      let source = try TestMachine(options)
      _ = try source.dump(to: "\(directory)/frozen.img")
      let state = try source.saveState()
      let listener = try DescriptorListener(path: "\(directory)/handler.sock")
      let destination = try SpawnedMicrovm(
        ["--memory", "16M", "--guest", guest.rawValue, "--incoming", "--attach", listener.path],
        in: directory, name: "b")
      var handOff = try receiveHandOff(listener)
      let status = try destination.ask("status")
      guard let userfault = handOff.descriptors.takeFirst() else {
        throw ControlFailure(.failed, "no descriptor came")
      }
      let image = try ImageFile(path: "\(directory)/frozen.img")
      let handler = try TestHandler(userfault, of: status, from: image)
      try destination.order("load-state") { $0.vmState = .init(state) }
      handler.hold()
      try destination.order("run")
      try handler.waitForHeldFault()
      try body(destination, handler)
      handler.stop()
    }
  }
}
