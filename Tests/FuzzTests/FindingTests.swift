import FaultHandler
import FuzzTargets
import Migration
import Pages
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

  /// Whether a line was too long depended on where its stream was cut: one that came in a piece
  /// together with its end could have twice the bound.
  @Test("A line is too long whatever the pieces that it comes in", arguments: [1, 7, 4096, 9000])
  func longLine(_ pieceByteCount: Int) {
    let stream = Array("{}\n".utf8) + [UInt8](repeating: 0x20, count: 4097) + [0x0A, 0x7B, 0x0A]
    var splitter = LineSplitter(maximumByteCount: 4096)
    var lines: [[UInt8]] = []
    var areAllTaken = true
    for start in stride(from: 0, to: stream.count, by: pieceByteCount) {
      let end = min(start + pieceByteCount, stream.count)
      let isTaken = splitter.append(stream[start..<end])
      if !isTaken { areAllTaken = false }
      while let line = splitter.next() { lines.append(line) }
    }
    #expect(lines == [Array("{}".utf8)])
    #expect(!areAllTaken)
  }

  @Test("A line as long as the bound is a line", arguments: [1, 7, 4096, 9000])
  func longestLine(_ pieceByteCount: Int) {
    let line = [UInt8](repeating: 0x20, count: 4096)
    let stream = line + [0x0A] + line + [0x0A]
    var splitter = LineSplitter(maximumByteCount: 4096)
    var lines: [[UInt8]] = []
    for start in stride(from: 0, to: stream.count, by: pieceByteCount) {
      let isTaken = splitter.append(
        stream[start..<min(start + pieceByteCount, stream.count)])
      #expect(isTaken)
      while let line = splitter.next() { lines.append(line) }
    }
    #expect(lines == [line, line])
  }

  /// A VMM's first generation leaves page sizes out; what is saved has them, and was longer than
  /// the bound of what a VMM may send: such a VM could not be found again by a new process.
  @Test("A VM of many regions is found again by what was saved of it")
  func manyRegions() throws {
    let elements = (0..<950).map { number in
      "{\"base_host_virt_addr\":\(139_637_976_727_552 + number * 8192),\"size\":4096,"
        + "\"offset\":\(number * 4096)}"
    }
    let body = Array(("[" + elements.joined(separator: ",") + "]").utf8)
    #expect(body.count <= AttachDocument.maximumByteCount)
    let document = try AttachDocument(parsing: body)
    let saved = SavedAttachment(
      document, process: ProcessIdentity(pid: 42, startTicks: 4711), userfaultNumber: 7)
    #expect(try SavedAttachment(parsing: saved.fileBytes)?.document() == document)
  }

  private func export(_ name: String) throws -> [UInt8] {
    try #require(FuzzTarget.export.seeds.first { $0.name == name }).bytes
  }

  @Test("Sound exports are served, all others refused")
  func exports() throws {
    let served = FuzzTarget.export.seeds.filter { FuzzTarget.exportServes($0.bytes) }
    #expect(served.map(\.name) == ["seed-sealed", "seed-plain"])
  }

  /// Whoever has the token could make a host write an epoch into its journal that made the whole
  /// journal unreadable.
  @Test("An export's epoch is one that a journal can hold")
  func exportEpoch() throws {
    #expect(!FuzzTarget.exportServes(try export("seed-epoch-too-high")))
  }

  /// An index that was exchanged for another sealed one after the check stopped the process: the
  /// place of a page's content was added up without a look.
  @Test("An export's index that points anywhere is an error")
  func exportIndex() throws {
    #expect(!FuzzTarget.exportServes(try export("seed-index-astray")))
  }
}
