public import Migration
internal import Pages
internal import System

/// What a journal says about one session.
public struct SessionHistory<Record: JournaledRecord>: Hashable, Sendable {
  /// The very VM that it moved.
  public let binding: VMBinding
  /// Its records, oldest first; the first one is the opening.
  public private(set) var records: [Record]

  /// A session with these records.
  public init(binding: VMBinding, records: [Record]) {
    self.binding = binding
    self.records = records
  }

  fileprivate mutating func append(_ record: Record) { records.append(record) }
}

/// The source's journal.
public typealias SourceJournal = MigrationJournal<SourceRecord>
/// The destination's journal.
public typealias DestinationJournal = MigrationJournal<DestinationRecord>

/// The journal of one VM and side, in the words of that side's core.
public struct MigrationJournal<Record: JournaledRecord>: ~Copyable {
  /// The sessions that it held when it was opened, oldest first.
  public let histories: [SessionHistory<Record>]
  private var journal: Journal

  /// Opens the VM's journal. Its directory must be prepared and its lock held.
  public static func open(
    vm name: VMName, in directory: StateDirectory
  ) throws(JournalError) -> MigrationJournal {
    let journal = try Journal.open(
      path: directory.journalPath(ofVM: name, side: Record.side), side: Record.side)
    let histories = try Self.histories(of: journal.recoveredPayloads, path: journal.path)
    var slot = 0
    for history in histories {
      guard history.binding.vmName == name.text else {
        throw .notUnderstood(
          path: journal.path, slot: slot,
          reason: "it belongs to VM \"\(history.binding.vmName)\"")
      }
      slot += history.records.count
    }
    return MigrationJournal(histories: histories, journal: journal)
  }

  /// What a VM's journal says, if it has one; nothing is written, and its lock need not be held.
  public static func read(
    vm name: VMName, in directory: StateDirectory
  ) throws(JournalError) -> [SessionHistory<Record>] {
    let path = directory.journalPath(ofVM: name, side: Record.side)
    do throws(SystemError) {
      _ = try FileStatus.of(path: path)
    } catch { if error.errno == .noSuchEntry { return [] } }
    return try read(path: path)
  }

  /// What the journal at `path` says, for people: its lock need not be held.
  public static func read(
    path: String
  ) throws(JournalError) -> [SessionHistory<Record>] {
    try histories(of: try Journal.read(path: path, side: Record.side), path: path)
  }

  private init(histories: [SessionHistory<Record>], journal: consuming Journal) {
    self.histories = histories
    self.journal = journal
  }

  /// Whether a record that was never durable was cut when the journal was opened.
  public var hadTornRecord: Bool { journal.hadTornRecord }

  /// Adds a record and returns when it is durable. An opening record takes the VM's binding along.
  /// The error tells whether the record may be durable all the same.
  public mutating func append(
    _ record: Record, binding: VMBinding
  ) throws(JournalError) {
    try journal.append(Self.payload(record, binding))
  }

  /// Adds a record and returns at once. It is durable with the next record that is, or when the
  /// kernel gets to it; a crash of the host may lose it, and nothing behind it.
  public mutating func appendLazily(
    _ record: Record, binding: VMBinding
  ) throws(JournalError) {
    try journal.appendLazily(Self.payload(record, binding))
  }

  private static func payload(_ record: Record, _ binding: VMBinding) -> [UInt8] {
    var writer = JournalWriter()
    record.encode(to: &writer)
    if record.isOpening { binding.encode(to: &writer) }
    return writer.bytes
  }

  /// Reads the records and groups them by session.
  package static func histories(
    of payloads: [[UInt8]], path: String
  ) throws(JournalError) -> [SessionHistory<Record>] {
    var histories: [SessionHistory<Record>] = []
    for (slot, payload) in payloads.enumerated() {
      do throws(JournalFormatError) {
        var reader = JournalReader(payload)
        let record = try Record(from: &reader)
        if record.isOpening {
          let binding = try VMBinding(from: &reader)
          histories.append(SessionHistory(binding: binding, records: [record]))
        } else if histories.isEmpty {
          throw JournalFormatError("no session was opened before it")
        } else {
          histories[histories.count - 1].append(record)
        }
        try reader.finish()
      } catch {
        throw .notUnderstood(path: path, slot: slot, reason: error.reason)
      }
    }
    return histories
  }
}
