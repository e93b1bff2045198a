import CGuestProgram
import Glibc
import GuestKit
import Pages
import Testing

@testable import GuestKit

extension TestMachine {
  /// A destination of the same shape.
  convenience init(incoming options: MachineOptions) throws(MachineError) {
    var options = options
    options.isIncoming = true
    try self.init(options)
  }
}

@Suite(.serialized) struct StateTests {
  @Test(arguments: Capability.guests, ["random", "chase", "zipf-write"])
  func aGuestRunsOnFromItsSavedState(guest: GuestKind, pattern: String) throws {
    var options = MachineOptions.small(guest, pattern, operations: nil)
    options.pattern.removeEvery = 9
    let source = try TestMachine(options)
    try source.resume()
    try source.waitForProgress()
    try source.pause(timeoutMilliseconds: 10_000)
    let state = try source.saveState()
    try source.disable(timeoutMilliseconds: 10_000)

    let destination = try TestMachine(incoming: options)
    #expect(destination.activity == .incoming)
    #expect(throws: ControlFailure.self) { try destination.resume() }
    try destination.takeMemory(of: source)
    try destination.loadState(state)
    #expect(destination.activity == .paused)
    #expect(throws: ControlFailure.self) { try destination.loadState(state) }
    try destination.resume()
    try destination.waitForProgress()
    try destination.pause(timeoutMilliseconds: 10_000)
    _ = try destination.expectRightMemory()
    #expect(destination.mismatches == [])
    #expect(source.activity == .disabled)
    #expect(throws: ControlFailure.self) { try source.resume() }
    let comparison = try ImageComparison(source: source.memory, destination: destination.memory)
    #expect(comparison.findings == Findings())
    #expect(comparison.operationsSince > 0)
  }

  /// The same guest, moved again and again in the middle of its work, ends like one that was not.
  @Test(arguments: Capability.guests)
  func tenMovesChangeNothing(guest: GuestKind) throws {
    let options = MachineOptions.small(guest, "random", operations: 20_000)
    var machine = try TestMachine(options)
    for _ in 0..<10 where machine.activity != .finished {
      try machine.resume()
      try machine.waitForProgress()
      try machine.pause(timeoutMilliseconds: 10_000)
      let next = try TestMachine(incoming: options)
      try next.takeMemory(of: machine)
      try next.loadState(try machine.saveState())
      machine = next
    }
    try machine.runToEnd()
    let still = try TestMachine(options)
    try still.runToEnd()
    let isSame = try GuestSnapshot(machine.memory).table == GuestSnapshot(still.memory).table
    #expect(isSame)
  }

  @Test(arguments: Capability.guests)
  func stateOfAnotherGuestIsRefused(guest: GuestKind) throws {
    let source = try TestMachine(.small(guest))
    let state = try source.saveState()
    var damaged = state
    damaged[100] ^= 1
    var other = MachineOptions.small(guest)
    other.vcpuCount = 3
    let small = try TestMachine(incoming: other)
    #expect(throws: ControlFailure.self) { try small.loadState(state) }
    let sameShape = try TestMachine(incoming: source.options)
    #expect(throws: ControlFailure.self) { try sameShape.loadState(damaged) }
    // No memory yet: the header is not that of the guest whose state this is.
    #expect(throws: ControlFailure.self) { try sameShape.loadState(state) }
    #expect(sameShape.activity == .incoming)
    try sameShape.takeMemory(of: source)
    try sameShape.loadState(state)
    #expect(sameShape.activity == .paused)
  }

  @Test(.enabled(if: Capability.hasKVM, "needs /dev/kvm"))
  func enginesDoNotTakeEachOthersState() throws {
    let source = try TestMachine(.small(.process))
    let destination = try TestMachine(incoming: .small(.kvm))
    try destination.takeMemory(of: source)
    let state = try source.saveState()
    #expect(throws: ControlFailure.self) { try destination.loadState(state) }
  }

  @Test(arguments: Capability.guests)
  func verbsAreRefusedInTheWrongState(guest: GuestKind) throws {
    let machine = try TestMachine(.small(guest, operations: nil))
    try machine.resume()
    try machine.resume()
    #expect(machine.activity == .running)
    #expect(throws: ControlFailure.self) { _ = try machine.saveState() }
    #expect(throws: ControlFailure.self) { _ = try machine.verify() }
    #expect(throws: ControlFailure.self) { try machine.loadState([]) }
    try machine.pause(timeoutMilliseconds: 10_000)
    try machine.pause(timeoutMilliseconds: 10_000)
    try machine.disable(timeoutMilliseconds: 10_000)
    try machine.disable(timeoutMilliseconds: 10_000)
    #expect(throws: ControlFailure.self) { try machine.pause(timeoutMilliseconds: 0) }
    #expect(throws: ControlFailure.self) { _ = try machine.saveState() }
    _ = try machine.expectRightMemory()
  }

  @Test(.enabled(if: Capability.hasKVM, "needs /dev/kvm"), arguments: [1, 3])
  func theDirtyLogNamesExactlyTheWrittenPages(regions: Int) throws {
    var options = MachineOptions.small(.kvm, "random-write", operations: 700)
    options.regionCount = regions
    options.pattern.removeEvery = 50
    let machine = try TestMachine(options)
    let before = try GuestSnapshot(machine.memory).table
    #expect(throws: ControlFailure.self) { _ = try machine.fetchDirtyLog() }
    try machine.startDirtyLog()
    #expect(throws: ControlFailure.self) { try machine.startDirtyLog() }
    try machine.runToEnd()
    let after = try GuestSnapshot(machine.memory).table
    let bitmap = try machine.fetchDirtyLog()
    let layout = machine.layout
    for page in 0..<layout.pageCount {
      let imagePage = Int(layout.imagePage(ofDataPage: page))
      let isDirty = bitmap[imagePage >> 3] >> UInt8(imagePage & 7) & 1 == 1
      #expect(isDirty == (before[page] != after[page]), "data page \(page)")
    }
    // Nothing ran since: nothing is dirty.
    #expect(try machine.fetchDirtyLog().allSatisfy { $0 == 0 })
    try machine.stopDirtyLog()
  }

  @Test func threadsHaveNoDirtyLog() throws {
    let machine = try TestMachine(.small(.process))
    #expect(throws: ControlFailure.self) { try machine.startDirtyLog() }
  }
}
