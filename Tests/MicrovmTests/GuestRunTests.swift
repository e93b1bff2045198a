import Glibc
import GuestKit
import Pages
import Testing

@testable import GuestKit

@Suite(.serialized) struct GuestRunTests {
  static let patterns = AccessPattern.Order.allCases.map(\.rawValue)

  @Test(arguments: Capability.guests, patterns)
  func everyPatternRunsAndVerifies(guest: GuestKind, pattern: String) throws {
    var options = MachineOptions.small(guest, pattern)
    if pattern == "rate-limited" { options.pattern.operationLimit = 400 }
    let machine = try TestMachine(options)
    try machine.runToEnd()
    let check = try machine.expectRightMemory()
    #expect(check.operations == options.pattern.operationLimit! * 2)
    #expect(check.writes > 0)
  }

  /// These orders visit each page once before any page twice.
  @Test(arguments: Capability.guests, ["sequential-write", "strided-write", "chase-write"])
  func wholeRoundsWriteEveryPageOnce(guest: GuestKind, pattern: String) throws {
    var options = MachineOptions.small(guest, pattern)
    options.fillPercent = 0
    let layout = try GuestLayout(
      byteCount: options.memoryByteCount, vcpuCount: 2, pageSize: .small, seed: 1,
      removedMayKeep: true)
    options.pattern.operationLimit = UInt64(layout.pagesPerVcpu)
    let machine = try TestMachine(options)
    try machine.runToEnd()
    let check = try machine.expectRightMemory()
    #expect(check.writtenPages == layout.pageCount)
    #expect(check.versionSum == UInt64(layout.pageCount))
  }

  @Test(arguments: Capability.guests)
  func bothEnginesMakeTheSameImage(guest: GuestKind) throws {
    var tables: [[TableEntry]] = []
    for engine in [guest, .process] {
      var options = MachineOptions.small(engine, "zipf")
      options.pattern.removeEvery = 7
      let machine = try TestMachine(options)
      try machine.runToEnd()
      tables.append(try GuestSnapshot(machine.memory).table)
    }
    // Not the tables themselves: a failure would print thousands of entries.
    let isSame = tables[0] == tables[1]
    #expect(isSame)
  }

  @Test(arguments: Capability.guests, [1, 3, 4])
  func oneToFourVcpusInSeveralRegions(guest: GuestKind, vcpus: Int) throws {
    var options = MachineOptions.small(guest)
    options.vcpuCount = vcpus
    options.regionCount = 3
    let machine = try TestMachine(options)
    try machine.runToEnd()
    let check = try machine.expectRightMemory()
    #expect(check.writes == UInt64(vcpus) * 5000)
  }

  @Test(arguments: Capability.guests, [MemoryBacking.memfd, .anonymous])
  func removedPagesReadAsZeros(guest: GuestKind, backing: MemoryBacking) throws {
    var options = MachineOptions.small(guest, "random")
    options.backing = backing
    options.pattern.removeEvery = 3
    let machine = try TestMachine(options)
    try machine.runToEnd()
    let check = try machine.expectRightMemory()
    #expect(check.removedPages > 0)
    #expect(try #require(machine.progress).removals == 2 * (5000 / 3))
  }

  @Test(arguments: Capability.guests)
  func punchedPagesReadAsZeros(guest: GuestKind) throws {
    var options = MachineOptions.small(guest, "random")
    options.pattern.removeEvery = 3
    options.removal = .punchHole
    let machine = try TestMachine(options)
    try machine.runToEnd()
    #expect(try machine.expectRightMemory().removedPages > 0)
  }

  @Test func privateMemoryHasNoHolesToPunch() {
    var options = MachineOptions.small(.process)
    options.backing = .anonymous
    options.removal = .punchHole
    #expect(throws: MachineError.self) { _ = try TestMachine(options) }
  }

  @Test(arguments: Capability.guests)
  func pagesGoBackWhenTheHostAsks(guest: GuestKind) throws {
    let machine = try TestMachine(.small(guest, "random-read", operations: 2000))
    try machine.remove(page: 10, count: 501)
    try machine.runToEnd()
    #expect(try machine.expectRightMemory().removedPages == 501)
    #expect(machine.progress?.removals == 501)
    #expect(throws: ControlFailure.self) { try machine.remove(page: 0, count: 1 << 40) }
  }

  @Test(
    .enabled(if: Capability.hasHugePages, "needs 32 free huge pages of 2 MiB"),
    arguments: Capability.guests, [MemoryBacking.memfd, .anonymous])
  func hugePagesRunAndGoBackWhole(guest: GuestKind, backing: MemoryBacking) throws {
    var options = MachineOptions.small(guest, "random")
    options.pageSize = .huge
    options.backing = backing
    options.pattern.removeEvery = 500
    let machine = try TestMachine(options)
    try machine.runToEnd()
    let check = try machine.expectRightMemory()
    #expect(check.removedPages > 0)
    #expect(throws: ControlFailure.self) { try machine.remove(page: 0, count: 1) }
  }

  @Test(arguments: Capability.guests)
  func pausesAtAnyMomentLeaveExplainableMemory(guest: GuestKind) throws {
    var options = MachineOptions.small(guest, "random", operations: nil)
    options.pattern.removeEvery = 5
    let machine = try TestMachine(options)
    for _ in 0..<40 {
      try machine.resume()
      try machine.waitForProgress()
      try machine.pause(timeoutMilliseconds: 10_000)
      #expect(machine.activity == .paused)
      _ = try machine.expectRightMemory()
    }
    #expect(machine.mismatches == [])
  }

  @Test func theRateLimitHolds() throws {
    var options = MachineOptions.small(.process, "rate-limited", operations: nil)
    options.pattern.operationsPerSecond = 200
    let machine = try TestMachine(options)
    try machine.resume()
    try machine.waitForProgress()
    // A waiting vCPU comes at once, not at the end of its wait.
    try machine.pause(timeoutMilliseconds: 10_000)
    _ = try machine.expectRightMemory()
  }
}
