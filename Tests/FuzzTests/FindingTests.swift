import Migration
import Session
import System
import Testing
import Wire

/// What the fuzz targets, and writing them, have brought to light; one test each.
@Suite("Found by fuzzing")
struct FindingTests {
  /// A journal record that checks may still hold any number: epochs are counted on, and the largest
  /// one stopped the process in the middle of a decision.
  @Test("A journal's epoch leaves room to count on", arguments: [UInt64(1 << 48) + 1, UInt64.max])
  func epochBeyondBound(_ epoch: UInt64) throws {
    let binding = VMBinding(
      vmName: try VMName("vm-1"), boot: BootID(text: "b"), vmm: nil, memory: nil)
    var writer = JournalWriter()
    SourceRecord.opened(
      session: SessionID(high: 1, low: 2), epoch: Epoch(rawValue: epoch), mode: .postCopy
    ).encode(to: &writer)
    binding.encode(to: &writer)
    #expect(throws: JournalError.self) {
      try SourceJournal.histories(of: [writer.bytes], path: "journal")
    }
  }

  @Test("A journal's highest epoch is still read")
  func epochAtBound() throws {
    let binding = VMBinding(
      vmName: try VMName("vm-1"), boot: BootID(text: "b"), vmm: nil, memory: nil)
    var writer = JournalWriter()
    let epoch = Epoch(rawValue: WireLimits.maximumEpoch)
    let record = SourceRecord.opened(
      session: SessionID(high: 1, low: 2), epoch: epoch, mode: .postCopy)
    record.encode(to: &writer)
    binding.encode(to: &writer)
    let histories = try SourceJournal.histories(of: [writer.bytes], path: "journal")
    #expect(histories.map(\.records) == [[record]])
    guard case .allowed = SendDecision.decide(current: binding, histories: histories) else {
      Issue.record("a VM that was never handed over may be sent")
      return
    }
  }

  /// The hello takes names that can be printed alone; one that the command line let through stopped
  /// the destination when it dialled.
  @Test(
    "A VM's name is one that a hello can carry",
    arguments: ["a\u{85}b", "a\u{2028}b", "a\u{202E}b", "a\u{2066}b", "a\nb"])
  func unprintableName(_ name: String) {
    #expect(!Hello.isNameValid(name))
    #expect(throws: StateError.self) { try VMName(name) }
  }
}
