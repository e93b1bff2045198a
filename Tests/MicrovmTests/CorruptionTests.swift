import CGuestProgram
import Glibc
import GuestKit
import Pages
import Testing

@testable import GuestKit

/// What a broken migration does to memory.
enum Damage: String, CaseIterable {
  case zeroed, stale, foreign, torn, lastWord

  func apply(to machine: TestMachine, page: Int) {
    let layout = machine.layout
    let target = unsafe machine.memory.pointer(at: layout.offset(ofDataPage: page))
    let version = unsafe target.load(fromByteOffset: 8, as: UInt32.self)
    switch self {
    case .zeroed: unsafe memset(target, 0, 4096)
    case .stale:
      unsafe layout.content(ofDataPage: page, version: version - 1).fill(target)
    case .foreign:
      unsafe layout.content(ofDataPage: page + 1, version: version).fill(target)
    case .torn: unsafe memset(target + 2048, 0, 2048)
    case .lastWord: unsafe target.storeBytes(of: 0, toByteOffset: 4088, as: UInt64.self)
    }
  }
}

@Suite(.serialized) struct CorruptionTests {
  /// A stopped guest whose every data page holds content, and half of them version 2 or more.
  private func machine(
    _ guest: GuestKind, operations: UInt64? = nil, noisePercent: Int = 0
  ) throws -> TestMachine {
    var options = MachineOptions.small(guest, "sequential-write", operations: operations)
    options.fillPercent = 100
    options.noisePercent = noisePercent
    return try TestMachine(options)
  }

  @Test(arguments: Capability.guests, Damage.allCases.flatMap { [($0, 0), ($0, 40), ($0, 100)] })
  func theGuestNoticesADamagedPage(guest: GuestKind, damage: (Damage, noise: Int)) throws {
    let machine = try machine(guest, noisePercent: damage.noise)
    let page = 1001
    damage.0.apply(to: machine, page: page)
    try machine.resume()
    try #require(machine.waitUntilStopped(until: limit()))
    #expect(machine.activity == .guestError)
    let mismatch = try #require(machine.mismatches.first)
    #expect(mismatch.imagePage == machine.layout.imagePage(ofDataPage: page))
    #expect(mismatch.vcpu == machine.layout.owner(ofDataPage: page))
    #expect(mismatch.expectedVersion == 1)
    #expect(machine.mismatches.count == 1)
    #expect(throws: ControlFailure.self) { try machine.resume() }
    #expect(try machine.verify().findings.count == 1)
  }

  @Test(arguments: Capability.guests)
  func theGuestNoticesALostCounter(guest: GuestKind) throws {
    let machine = try machine(guest)
    // Before the first operation: in the middle of one the guest may be about to set it itself.
    machine.memory.setWord(
      at: machine.layout.offset(ofVcpu: 1) + UInt64(VCPU_OPERATIONS), to: 1)
    try machine.resume()
    try #require(machine.waitUntilStopped(until: limit()))
    #expect(machine.mismatches.first?.vcpu == 1)
    #expect(machine.mismatches.first?.what.contains("counter") == true)
  }

  @Test(.enabled(if: Capability.hasKVM, "needs /dev/kvm"))
  func theGuestNoticesALostVectorRegister() throws {
    let machine = try machine(.kvm)
    let canary = machine.layout.offset(ofVcpu: 0) + UInt64(VCPU_CANARY)
    machine.memory.setWord(at: canary, to: 1)
    try machine.resume()
    try #require(machine.waitUntilStopped(until: limit()))
    #expect(machine.mismatches.first?.what.contains("vector register") == true)
  }

  @Test(.enabled(if: Capability.hasKVM, "needs /dev/kvm"))
  func aGuestWithoutCodeCrashesLoudly() throws {
    let machine = try machine(.kvm)
    unsafe memset(machine.memory.pointer(at: machine.layout.codeOffset), 0x0f, 4096)
    try machine.resume()
    try #require(machine.waitUntilStopped(until: limit()))
    #expect(machine.activity == .guestError)
  }

  @Test(arguments: Damage.allCases)
  func theCheckFindsEveryDamagedPage(damage: Damage) throws {
    let machine = try machine(.process, operations: 3000)
    try machine.runToEnd()
    for page in [0, 500, machine.layout.pageCount - 1] { damage.apply(to: machine, page: page) }
    #expect(try machine.verify().findings.count == 3)
  }

  @Test func theCheckFindsALostTableEntryBesideItsPage() throws {
    let machine = try machine(.process, operations: 3000)
    try machine.runToEnd()
    // A page and its entry that are stale together agree with each other; the sum does not.
    let page = 4
    let entry = unsafe machine.memory.pointer(at: machine.layout.tableOffset + UInt64(page) * 4)
    let version = unsafe entry.load(as: UInt32.self)
    unsafe entry.storeBytes(of: version - 1, as: UInt32.self)
    Damage.stale.apply(to: machine, page: page)
    let findings = try machine.verify().findings
    #expect(findings.count == 1)
    #expect(findings.sentences.first?.contains("add up") == true)
  }

  @Test func theCheckFindsChangedCodeTablesAndTail() throws {
    let machine = try machine(.process, operations: 10)
    try machine.runToEnd()
    machine.memory.setWord(at: machine.layout.codeOffset, to: 0)
    machine.memory.setWord(at: GuestLayout.pageTableOffset + 4096 * 2, to: 0)
    #expect(try machine.verify().findings.count == 2)
  }

  @Test func aForeignHeaderIsNoImage() throws {
    let machine = try machine(.process, operations: 10)
    try machine.runToEnd()
    machine.memory.setWord(at: UInt64(HEADER_SEED), to: 99)
    #expect(try machine.verify().findings.count > 1000)
    machine.memory.setWord(at: 0, to: 0)
    #expect(throws: ControlFailure.self) { _ = try machine.verify() }
  }

  // MARK: - The comparison of two images

  private func twins() throws -> (source: TestMachine, destination: TestMachine) {
    let source = try machine(.process, operations: 3000)
    try source.runToEnd()
    let destination = try machine(.process, operations: 3000)
    try destination.takeMemory(of: source)
    return (source, destination)
  }

  @Test func equalImagesCompare() throws {
    let (source, destination) = try twins()
    let comparison = try ImageComparison(source: source.memory, destination: destination.memory)
    #expect(comparison.findings == Findings())
    #expect(comparison.unchangedPages == source.layout.pageCount)
    #expect(comparison.writesSince == 0)
  }

  @Test(arguments: Damage.allCases)
  func theComparisonFindsEveryDamagedPage(damage: Damage) throws {
    let (source, destination) = try twins()
    damage.apply(to: destination, page: 77)
    let comparison = try ImageComparison(source: source.memory, destination: destination.memory)
    // Once as a page that breaks the rule, once as one that differs.
    #expect(comparison.findings.count == 2)
  }

  @Test func theComparisonFindsWhatOneImageAloneCannotShow() throws {
    let (source, destination) = try twins()
    // A whole guest of an earlier moment is right in itself, and still a loss.
    let earlier = try machine(.process, operations: 2000)
    try earlier.runToEnd()
    try destination.takeMemory(of: earlier)
    let comparison = try ImageComparison(source: source.memory, destination: destination.memory)
    #expect(comparison.findings.count > 0)
    #expect(comparison.findings.sentences.contains { $0.contains("went back") })
  }

  @Test func theComparisonFollowsAGuestThatRanOn() throws {
    let source = try machine(.process)
    try source.resume()
    try source.waitForProgress()
    try source.pause(timeoutMilliseconds: 10_000)
    let destination = try machine(.process)
    try destination.takeMemory(of: source)
    let frozen = try source.saveState()
    let target = try TestMachine(incoming: destination.options)
    try target.takeMemory(of: source)
    try target.loadState(frozen)
    try target.resume()
    try target.waitForProgress()
    try target.pause(timeoutMilliseconds: 10_000)
    let comparison = try ImageComparison(source: source.memory, destination: target.memory)
    #expect(comparison.findings == Findings())
    #expect(comparison.writesSince > 0)
    #expect(comparison.operationsSince == comparison.writesSince)
  }
}
