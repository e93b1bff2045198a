import Migration
import System
import Testing
import Wire

@testable import Session

/// Parts of bindings that the tables below combine.
enum Marks {
  static let boot = BootID(text: "11111111-1111-1111-1111-111111111111")
  static let otherBoot = BootID(text: "22222222-2222-2222-2222-222222222222")
  static let vmm = ProcessIdentity(pid: 42, startTicks: 1000)
  static let reusedPID = ProcessIdentity(pid: 42, startTicks: 2000)
  static let memfd = MemoryIdentity(device: 1, inode: 7, isVolatile: true)
  static let otherMemfd = MemoryIdentity(device: 1, inode: 8, isVolatile: true)
  static let disk = MemoryIdentity(device: 9, inode: 7, isVolatile: false)
  static let session = SessionID(high: 0x0123_4567_89AB_CDEF, low: 0xFEDC_BA98_7654_3210)

  static func binding(
    _ boot: BootID = boot, _ vmm: ProcessIdentity? = nil, _ memory: MemoryIdentity? = nil
  ) throws -> VMBinding {
    VMBinding(vmName: try VMName("web1"), boot: boot, vmm: vmm, memory: memory)
  }
}

@Suite("Which VM it is")
struct VMBindingTests {
  typealias Row = (VMBinding, VMBinding, VMBinding.Comparison)

  @Test("Process and memory decide, and a boot ends both unless the memory is on disk")
  func table() throws {
    let m = Marks.self
    let rows: [Row] = [
      (try m.binding(m.boot, m.vmm, m.memfd), try m.binding(m.boot, m.vmm, m.memfd), .same),
      (try m.binding(m.boot, m.vmm), try m.binding(m.boot, m.vmm), .same),
      // Another process over the same memory is the same VM.
      (try m.binding(m.boot, m.reusedPID, m.memfd), try m.binding(m.boot, m.vmm, m.memfd), .same),
      (try m.binding(m.boot, nil, m.memfd), try m.binding(m.boot, m.vmm, m.memfd), .same),
      // A pid that was used again is another process.
      (try m.binding(m.boot, m.reusedPID), try m.binding(m.boot, m.vmm), .different),
      (
        try m.binding(m.boot, m.reusedPID, m.otherMemfd), try m.binding(m.boot, m.vmm, m.memfd),
        .different
      ),
      (try m.binding(m.boot, nil, m.otherMemfd), try m.binding(m.boot, m.vmm, m.memfd), .different),
      // The same process with another memory file is still the same VMM.
      (try m.binding(m.boot, m.vmm, m.otherMemfd), try m.binding(m.boot, m.vmm, m.memfd), .same),
      // Nothing to compare.
      (try m.binding(m.boot), try m.binding(m.boot, m.vmm, m.memfd), .unknown),
      (try m.binding(m.boot, m.vmm), try m.binding(m.boot, nil, m.memfd), .unknown),
      (try m.binding(m.boot), try m.binding(m.boot), .unknown),
      // After a reboot the same numbers mean something else.
      (
        try m.binding(m.otherBoot, m.vmm, m.memfd), try m.binding(m.boot, m.vmm, m.memfd),
        .different
      ),
      (try m.binding(m.otherBoot), try m.binding(m.boot, m.vmm), .different),
      // A file on disk is what it was.
      (try m.binding(m.otherBoot, nil, m.disk), try m.binding(m.boot, nil, m.disk), .same),
    ]
    for (number, (left, right, expected)) in rows.enumerated() {
      #expect(left.compare(right) == expected, "row \(number)")
      #expect(right.compare(left) == expected, "row \(number), the other way round")
    }
  }
}

@Suite("Whether a VM may be sent")
struct SendDecisionTests {
  private let opened = SourceRecord.opened(
    session: Marks.session, epoch: Epoch(rawValue: 4), mode: .postCopy)
  private let handedOff = SourceRecord.handedOff(epoch: Epoch(rawValue: 5))
  private let acknowledged = SourceRecord.ranAcknowledged(epoch: Epoch(rawValue: 5))
  private let resumed = SourceRecord.resumed(epoch: Epoch(rawValue: 6))
  private let fenced = SourceRecord.fenced(epoch: Epoch(rawValue: 6))
  private let completed = SourceRecord.completed(epoch: Epoch(rawValue: 5))
  private let aborted = SourceRecord.aborted(epoch: Epoch(rawValue: 4))

  private func decide(
    _ records: [SourceRecord], _ current: VMBinding? = nil
  ) throws -> SendDecision {
    let binding = try Marks.binding(Marks.boot, Marks.vmm, Marks.memfd)
    return SendDecision.decide(
      current: current ?? binding, histories: [SessionHistory(binding: binding, records: records)])
  }

  private func allowed(_ epoch: UInt64, interrupted: Bool) -> SendDecision {
    .allowed(epoch: Epoch(rawValue: epoch), wasInterrupted: interrupted)
  }

  @Test("A VM that was never sent starts at epoch 0")
  func first() throws {
    let decision = SendDecision.decide(current: try Marks.binding(), histories: [])
    #expect(decision == allowed(0, interrupted: false))
    #expect(decision.refusal(vmName: "web1") == nil)
  }

  @Test("Records decide about the very same VM")
  func records() throws {
    let epoch = Epoch(rawValue: 5)
    let refusedHandedOff = SendDecision.refusedHandedOff(Marks.session, epoch: epoch)
    let refusedCompleted = SendDecision.refusedCompleted(Marks.session, epoch: epoch)
    #expect(try decide([opened]) == allowed(4, interrupted: true))
    #expect(try decide([opened, aborted]) == allowed(4, interrupted: false))
    #expect(try decide([opened, handedOff]) == refusedHandedOff)
    #expect(try decide([opened, handedOff, acknowledged]) == refusedHandedOff)
    #expect(try decide([opened, handedOff, resumed]) == allowed(6, interrupted: true))
    #expect(try decide([opened, handedOff, resumed, aborted]) == allowed(6, interrupted: false))
    #expect(try decide([opened, handedOff, fenced]) == allowed(6, interrupted: true))
    #expect(try decide([opened, handedOff, acknowledged, completed]) == refusedCompleted)
  }

  @Test("Another VM of the same name may be sent, in a later epoch; one that is unknown may not")
  func identities() throws {
    let other = try Marks.binding(Marks.boot, Marks.reusedPID, Marks.otherMemfd)
    let unknown = try Marks.binding(Marks.boot)
    let rebooted = try Marks.binding(Marks.otherBoot)
    #expect(try decide([opened, handedOff], other) == allowed(6, interrupted: false))
    #expect(try decide([opened, handedOff], rebooted) == allowed(6, interrupted: false))
    #expect(try decide([opened, completed], other) == allowed(6, interrupted: false))
    #expect(
      try decide([opened, handedOff], unknown)
        == .refusedUnidentified(Marks.session, epoch: Epoch(rawValue: 5)))
  }

  @Test("An old hand-off of this VM counts behind any number of later sessions")
  func olderSession() throws {
    let this = try Marks.binding(Marks.boot, Marks.vmm, Marks.memfd)
    let other = try Marks.binding(Marks.boot, Marks.reusedPID, Marks.otherMemfd)
    let histories = [
      SessionHistory(binding: this, records: [opened, handedOff]),
      SessionHistory(binding: other, records: [opened, aborted]),
    ]
    let decision = SendDecision.decide(current: this, histories: histories)
    #expect(decision == .refusedHandedOff(Marks.session, epoch: Epoch(rawValue: 5)))
    let refusal = try #require(decision.refusal(vmName: "web1"))
    #expect(refusal.reason.contains("01234567-89ab-cdef-fedc-ba9876543210"))
    #expect(refusal.reason.contains("web1"))
  }
}

@Suite("Whether a VM may be received")
struct ReceiveDecisionTests {
  private let epoch = Epoch(rawValue: 1)
  private var opened: DestinationRecord {
    .opened(session: Marks.session, epoch: Epoch(rawValue: 0), mode: .postCopy)
  }

  private func decide(
    _ records: [DestinationRecord], current: VMBinding? = nil, isAlive: Bool = true
  ) throws -> ReceiveDecision {
    ReceiveDecision.decide(
      current: try current ?? Marks.binding(Marks.boot, Marks.reusedPID),
      histories: [
        SessionHistory(binding: try Marks.binding(Marks.boot, Marks.vmm), records: records)
      ], isAlive: { _ in isAlive })
  }

  @Test("A VM that may run here without all its memory keeps its name")
  func unfinished() throws {
    let refused = ReceiveDecision.refusedUnfinished(Marks.session)
    let go = DestinationRecord.goAccepted(epoch: epoch)
    let ran = DestinationRecord.ran(epoch: epoch)
    let prepared = DestinationRecord.prepared(epoch: Epoch(rawValue: 0))
    let aborted = DestinationRecord.aborted(epoch: epoch, Refusal(.vmm, "refused to run"))
    #expect(try decide([opened]) == .allowed)
    #expect(try decide([opened, prepared]) == .allowed)
    #expect(try decide([opened, prepared, go]) == refused)
    #expect(try decide([opened, prepared, go, ran]) == refused)
    #expect(try decide([opened, prepared, go], isAlive: false) == .allowed)
    #expect(try decide([opened, prepared, go, aborted]) == .allowed)
    #expect(try decide([opened, go, ran, .complete(epoch: epoch)]) == .allowed)
    #expect(
      try decide([opened, go, ran], current: Marks.binding(Marks.otherBoot, Marks.vmm)) == .allowed)
  }

  @Test("Memory that was in a session before is never used again")
  func usedVMM() throws {
    let decision = try decide([opened], current: Marks.binding(Marks.boot, Marks.vmm))
    #expect(decision == .refusedUsedVMM(Marks.session))
    #expect(try #require(decision.refusal(vmName: "web1")).code == .session)
  }
}
