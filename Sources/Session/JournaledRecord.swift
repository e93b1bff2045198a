public import Migration
internal import Wire

/// A record of one of the two cores, as it stands in that side's journal.
public protocol JournaledRecord: JournalEncodable, Hashable {
  /// The side whose core writes it.
  static var side: JournalSide { get }
  /// Whether a session begins with it; then the VM's binding follows it in the same slot.
  var isOpening: Bool { get }
}

/// The numbers on disk. They never change their meaning; a new record gets a new one.
private enum RecordNumber: UInt8 {
  case opened = 1
  case handedOff = 2
  case ranAcknowledged = 3
  case resumed = 4
  case fenced = 5
  case completed = 6
  case aborted = 7
  case prepared = 8
  case goAccepted = 9
  case ran = 10
  case complete = 11
  case runRuledOut = 12
}

extension SourceRecord: JournaledRecord {
  /// The source's journal.
  public static var side: JournalSide { .source }

  /// Whether it is `opened`.
  public var isOpening: Bool {
    if case .opened = self { return true }
    return false
  }

  /// The number, the epoch, and what else the record has.
  public func encode(to writer: inout JournalWriter) {
    switch self {
    case .opened(let session, let epoch, let mode):
      writer.appendOpening(session: session, epoch: epoch, mode: mode)
    case .handedOff(let epoch): writer.append(.handedOff, epoch)
    case .ranAcknowledged(let epoch): writer.append(.ranAcknowledged, epoch)
    case .resumed(let epoch): writer.append(.resumed, epoch)
    case .fenced(let epoch): writer.append(.fenced, epoch)
    case .completed(let epoch): writer.append(.completed, epoch)
    case .aborted(let epoch): writer.append(.aborted, epoch)
    }
  }

  /// Reads what `encode` wrote.
  public init(from reader: inout JournalReader) throws(JournalFormatError) {
    let (number, epoch) = try reader.nextRecordNumber()
    switch number {
    case .opened:
      let (session, mode) = try reader.nextOpening()
      self = .opened(session: session, epoch: epoch, mode: mode)
    case .handedOff: self = .handedOff(epoch: epoch)
    case .ranAcknowledged: self = .ranAcknowledged(epoch: epoch)
    case .resumed: self = .resumed(epoch: epoch)
    case .fenced: self = .fenced(epoch: epoch)
    case .completed: self = .completed(epoch: epoch)
    case .aborted: self = .aborted(epoch: epoch)
    case .prepared, .goAccepted, .runRuledOut, .ran, .complete:
      throw JournalFormatError("record \(number.rawValue) belongs to the destination")
    }
  }
}

extension DestinationRecord: JournaledRecord {
  /// The destination's journal.
  public static var side: JournalSide { .destination }

  /// Whether it is `opened`.
  public var isOpening: Bool {
    if case .opened = self { return true }
    return false
  }

  /// The number, the epoch, and what else the record has. A reason is cut to 255 bytes.
  public func encode(to writer: inout JournalWriter) {
    switch self {
    case .opened(let session, let epoch, let mode):
      writer.appendOpening(session: session, epoch: epoch, mode: mode)
    case .prepared(let epoch): writer.append(.prepared, epoch)
    case .goAccepted(let epoch): writer.append(.goAccepted, epoch)
    case .runRuledOut(let epoch): writer.append(.runRuledOut, epoch)
    case .ran(let epoch): writer.append(.ran, epoch)
    case .complete(let epoch): writer.append(.complete, epoch)
    case .aborted(let epoch, let refusal):
      writer.append(.aborted, epoch)
      writer.append(refusal.code.rawValue)
      writer.append(text: refusal.reason)
    }
  }

  /// Reads what `encode` wrote.
  public init(from reader: inout JournalReader) throws(JournalFormatError) {
    let (number, epoch) = try reader.nextRecordNumber()
    switch number {
    case .opened:
      let (session, mode) = try reader.nextOpening()
      self = .opened(session: session, epoch: epoch, mode: mode)
    case .prepared: self = .prepared(epoch: epoch)
    case .goAccepted: self = .goAccepted(epoch: epoch)
    case .runRuledOut: self = .runRuledOut(epoch: epoch)
    case .ran: self = .ran(epoch: epoch)
    case .complete: self = .complete(epoch: epoch)
    case .aborted:
      let codeNumber = try reader.next(UInt16.self)
      guard let code = RefusalCode(rawValue: codeNumber) else {
        throw JournalFormatError("unknown reason \(codeNumber)")
      }
      self = .aborted(epoch: epoch, Refusal(code, try reader.nextText()))
    case .handedOff, .ranAcknowledged, .resumed, .fenced, .completed:
      throw JournalFormatError("record \(number.rawValue) belongs to the source")
    }
  }
}

extension JournalWriter {
  fileprivate mutating func append(_ number: RecordNumber, _ epoch: Epoch) {
    append(number.rawValue)
    append(epoch.rawValue)
  }

  fileprivate mutating func appendOpening(session: SessionID, epoch: Epoch, mode: MigrationMode) {
    append(.opened, epoch)
    append(session.high)
    append(session.low)
    append(mode.rawValue)
  }
}

extension JournalReader {
  fileprivate mutating func nextRecordNumber()
    throws(JournalFormatError) -> (RecordNumber, Epoch)
  {
    let byte = try next(UInt8.self)
    guard let number = RecordNumber(rawValue: byte) else {
      throw JournalFormatError("unknown record \(byte)")
    }
    let epoch: UInt64 = try next()
    // Epochs are counted on, so a record that leaves no room for that is damage, like on the wire.
    guard epoch <= WireLimits.maximumEpoch else {
      throw JournalFormatError("its epoch \(epoch) is out of range")
    }
    return (number, Epoch(rawValue: epoch))
  }

  fileprivate mutating func nextOpening()
    throws(JournalFormatError) -> (SessionID, MigrationMode)
  {
    let session = SessionID(high: try next(), low: try next())
    let byte = try next(UInt8.self)
    guard let mode = MigrationMode(rawValue: byte) else {
      throw JournalFormatError("unknown mode \(byte)")
    }
    return (session, mode)
  }
}
