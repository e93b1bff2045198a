import Migration
import System
import Testing
import Wire

@testable import Session

@Suite("Journals of the cores")
struct MigrationJournalTests {
  let scratch: ScratchDirectory
  let directory: StateDirectory

  init() throws {
    scratch = try ScratchDirectory()
    directory = StateDirectory(statePath: scratch.path("state"), runPath: scratch.path("run"))
  }

  private static let epoch = Epoch(rawValue: 0x0304_0506_0708)
  static let sourceRecords: [SourceRecord] = [
    .opened(session: Marks.session, epoch: epoch, mode: .quick), .handedOff(epoch: epoch),
    .ranAcknowledged(epoch: epoch), .resumed(epoch: epoch), .fenced(epoch: epoch),
    .completed(epoch: epoch), .aborted(epoch: epoch),
  ]
  static let destinationRecords: [DestinationRecord] = [
    .opened(session: Marks.session, epoch: epoch, mode: .postCopy), .prepared(epoch: epoch),
    .goAccepted(epoch: epoch), .ran(epoch: epoch), .complete(epoch: epoch),
    .aborted(epoch: epoch, Refusal(.vmm, "it said no")),
  ]

  @Test("Every record of the source comes back, by session")
  func source() throws {
    let name = try VMName(String(repeating: "ü", count: 127))
    var binding = try Marks.binding(Marks.boot, Marks.vmm, Marks.memfd)
    binding.vmName = name.text
    try directory.prepare(vm: name)
    do {
      var journal = try SourceJournal.open(vm: name, in: directory)
      #expect(journal.histories.isEmpty)
      for record in Self.sourceRecords { try journal.append(record, binding: binding) }
      binding.memory = Marks.disk
      for record in Self.sourceRecords { try journal.appendLazily(record, binding: binding) }
    }
    let histories = try SourceJournal.open(vm: name, in: directory).histories
    #expect(histories.map(\.records) == [Self.sourceRecords, Self.sourceRecords])
    #expect(histories.map(\.binding.memory) == [Marks.memfd, Marks.disk])
    #expect(histories.allSatisfy { $0.binding.vmName == name.text })
    #expect(histories[0].session == Marks.session)
  }

  @Test("Every record of the destination comes back; a long reason is cut between characters")
  func destination() throws {
    let name = try VMName("web1")
    let binding = try Marks.binding(Marks.boot)
    let long = String(repeating: "ü", count: 200)
    try directory.prepare(vm: name)
    do {
      var journal = try DestinationJournal.open(vm: name, in: directory)
      for record in Self.destinationRecords { try journal.append(record, binding: binding) }
      try journal.append(.aborted(epoch: Self.epoch, Refusal(.vmm, long)), binding: binding)
    }
    let histories = try DestinationJournal.open(vm: name, in: directory).histories
    let cut = String(repeating: "ü", count: 127)
    #expect(
      histories.map(\.records) == [
        Self.destinationRecords + [.aborted(epoch: Self.epoch, Refusal(.vmm, cut))]
      ])
  }

  @Test("A journal of another VM, whose name has the same short form, is not read as ours")
  func foreignName() throws {
    let name = try VMName("web1")
    try directory.prepare(vm: name)
    do {
      var binding = try Marks.binding()
      binding.vmName = "web2"
      var journal = try SourceJournal.open(vm: name, in: directory)
      try journal.append(Self.sourceRecords[0], binding: binding)
    }
    let error = #expect(throws: JournalError.self) {
      _ = try SourceJournal.open(vm: name, in: directory)
    }
    #expect(error?.description.contains("web2") == true)
  }

  @Test("Records that say something unknown are errors that name the record")
  func unknown() throws {
    let opening = try Self.openingPayload()
    let bad: [[UInt8]] = [
      [], [0], [99] + [UInt8](repeating: 0, count: 8), [2, 0, 0],
      [2] + [UInt8](repeating: 0, count: 9),  // one byte too many
      [9] + [UInt8](repeating: 0, count: 8),  // the destination's
      [1] + [UInt8](repeating: 0, count: 24) + [7],  // an unknown mode
      [2] + [UInt8](repeating: 7, count: 8),  // an epoch out of range
      Array(opening.dropLast()), opening + [0],
    ]
    for payload in bad {
      let error = #expect(throws: JournalError.self) {
        _ = try SourceJournal.histories(of: [opening, payload], path: "j")
      }
      guard case .notUnderstood("j", 1, _) = error else {
        Issue.record("\(payload): \(String(describing: error))")
        continue
      }
    }
    #expect(throws: JournalError.self) {
      _ = try SourceJournal.histories(of: [Self.handedOffPayload()], path: "j")
    }
  }

  private static func openingPayload() throws -> [UInt8] {
    var writer = JournalWriter()
    sourceRecords[0].encode(to: &writer)
    try Marks.binding().encode(to: &writer)
    return writer.bytes
  }

  private static func handedOffPayload() -> [UInt8] {
    var writer = JournalWriter()
    sourceRecords[1].encode(to: &writer)
    return writer.bytes
  }
}
