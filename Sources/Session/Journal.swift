internal import Glibc
internal import Pages
internal import System

/// The durable record of what one side of one VM's migrations has promised. An append returns only
/// when the record is on stable storage.
///
/// The file is a row of slots (`JournalSlot`). Room for records is written as zeros, and synced,
/// when the journal is opened: then an append overwrites blocks that exist. It needs no new space,
/// so a disk that fills up later cannot stop a hand-over half way, and its sync has no metadata to
/// write, which shortens the downtime. One process uses it at a time: `VMLock`.
public struct Journal: ~Copyable {
  /// Records that always fit after opening: a migration writes about eight, a stubborn one with
  /// aborts and retries a few times that.
  public static let reservedSlotCount = 64
  /// 8192 records, 4 MiB: some thousand migrations of one VM. It is read whole when it is opened.
  public static let maximumSlotCount = 8192
  /// The largest record.
  public static let maximumPayloadByteCount = JournalSlot.maximumPayloadByteCount

  /// Where it is.
  public let path: String
  /// The side that it records.
  public let side: JournalSide
  /// What it held when it was opened, oldest first.
  public let recoveredPayloads: [[UInt8]]
  /// Whether opening it cut a torn last record.
  public let hadTornRecord: Bool
  /// How many records it has now.
  public private(set) var recordCount: Int
  private let file: OwnedDescriptor
  private let slotCount: Int
  private var hasFailed = false
  private var hasUnsyncedRecord = false
  /// Slots in one page of the page cache.
  private static let slotCountOfPage = 4096 / JournalSlot.byteCount

  /// Opens the journal, made when missing, reads it, and makes what was read durable: a record that
  /// the page cache shows may not have reached the disk before its writer died.
  ///
  /// A torn last record is cut: only a record whose append never returned can be torn, and nobody
  /// acted on that one.
  public static func open(path: String, side: JournalSide) throws(JournalError) -> Journal {
    let file = try openFile(path)
    let scan = try JournalScan(try contents(of: file, path: path), side: side, path: path)
    let slotCount = scan.payloads.count + reservedSlotCount
    guard slotCount <= maximumSlotCount else { throw .full(path: path) }
    // Zeros over a torn record and over all room; what is zero already costs 32 KiB of writing.
    let room = [UInt8](repeating: 0, count: reservedSlotCount * JournalSlot.byteCount)
    do throws(SystemError) {
      try file.writeAll(room, atOffset: offset(ofSlot: scan.payloads.count), operand: path)
      try file.synchronize(operand: path)
      try FileSystem.synchronizeDirectory(Self.directory(of: path))
    } catch {
      throw .unavailable(error)
    }
    return Journal(path: path, side: side, scan: scan, slotCount: slotCount, file: file)
  }

  /// The records of a journal that somebody else may be writing, oldest first: nothing is locked,
  /// cut or made durable. Only for people: what it shows proves nothing.
  static func read(path: String, side: JournalSide) throws(JournalError) -> [[UInt8]] {
    let file: OwnedDescriptor
    do throws(SystemError) {
      file = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NOFOLLOW)
    } catch {
      throw .unavailable(error)
    }
    return try JournalScan(try contents(of: file, path: path), side: side, path: path).payloads
  }

  private static func openFile(_ path: String) throws(JournalError) -> OwnedDescriptor {
    do throws(SystemError) {
      return try OwnedDescriptor.open(path, flags: O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
    } catch {
      throw .unavailable(error)
    }
  }

  private static func contents(
    of file: borrowing OwnedDescriptor, path: String
  ) throws(JournalError) -> [UInt8] {
    do throws(SystemError) {
      let status = try FileStatus.of(file)
      guard status.byteCount <= UInt64(maximumSlotCount * JournalSlot.byteCount) else {
        throw SystemError("read", path, .fileTooLarge)
      }
      return try file.read(byteCount: Int(status.byteCount), atOffset: 0, operand: path)
    } catch {
      throw .unavailable(error)
    }
  }

  private init(
    path: String, side: JournalSide, scan: JournalScan, slotCount: Int,
    file: consuming OwnedDescriptor
  ) {
    self.path = path
    self.side = side
    self.recoveredPayloads = scan.payloads
    self.hadTornRecord = scan.isTornAtEnd
    self.recordCount = scan.payloads.count
    self.slotCount = slotCount
    self.file = file
  }

  /// Adds a record and returns when it, and all before it, are durable. Costs one fdatasync(2).
  /// After `uncertain` the journal refuses every further append.
  public mutating func append(_ payload: [UInt8]) throws(JournalError) {
    try write(payload)
    try synchronize()
  }

  /// Adds a record without waiting for the disk: it becomes durable with the next `append`, or when
  /// the kernel gets to it.
  public mutating func appendLazily(_ payload: [UInt8]) throws(JournalError) {
    try write(payload)
    hasUnsyncedRecord = true
  }

  private mutating func write(_ payload: [UInt8]) throws(JournalError) {
    invariant(payload.count <= Self.maximumPayloadByteCount, "a journal record fits its slot")
    guard !hasFailed else { throw .failedBefore(path: path) }
    guard recordCount < slotCount else { throw .full(path: path) }
    // Two dirty pages may reach the disk in either order, and a record must never be there without
    // the one before it: a lazy one on the page before goes first.
    if hasUnsyncedRecord, recordCount % Self.slotCountOfPage == 0 { try synchronize() }
    let slot = JournalSlot.encode(payload: payload, sequence: UInt64(recordCount), side: side)
    let offset = Self.offset(ofSlot: recordCount)
    do throws(SystemError) {
      try file.writeAll(slot, atOffset: offset, operand: path)
    } catch {
      throw takeBack(atOffset: offset, after: error)
    }
    recordCount += 1
  }

  private mutating func synchronize() throws(JournalError) {
    do throws(SystemError) {
      try file.synchronizeContents(operand: path)
    } catch {
      hasFailed = true
      throw .uncertain(error)
    }
    hasUnsyncedRecord = false
  }

  /// A write that failed may have left a piece of the record: only when its place durably holds
  /// zeros is it certain that nobody will ever read it.
  private mutating func takeBack(
    atOffset offset: UInt64, after cause: SystemError
  ) -> JournalError {
    let zeros = [UInt8](repeating: 0, count: JournalSlot.byteCount)
    do throws(SystemError) {
      let found = try file.read(byteCount: zeros.count, atOffset: offset, operand: path)
      if found != zeros { try file.writeAll(zeros, atOffset: offset, operand: path) }
      try file.synchronizeContents(operand: path)
      return .notWritten(cause)
    } catch {
      hasFailed = true
      return .uncertain(cause)
    }
  }

  private static func offset(ofSlot slot: Int) -> UInt64 { UInt64(slot * JournalSlot.byteCount) }

  private static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }
}

/// What the bytes of a journal say.
package struct JournalScan {
  /// The records, oldest first.
  package let payloads: [[UInt8]]
  /// Whether a torn record follows them.
  package let isTornAtEnd: Bool

  /// Reads slot by slot; a piece of a slot at the end counts as filled up with zeros. Damage
  /// anywhere is an error.
  package init(_ bytes: [UInt8], side: JournalSide, path: String) throws(JournalError) {
    var payloads: [[UInt8]] = []
    var isAtEnd = false
    var isTorn = false
    var slot = 0
    for start in stride(from: 0, to: bytes.count, by: JournalSlot.byteCount) {
      var piece = Array(bytes[start..<min(start + JournalSlot.byteCount, bytes.count)])
      piece.append(contentsOf: repeatElement(0, count: JournalSlot.byteCount - piece.count))
      let content = JournalSlot.decode(piece, sequence: UInt64(slot), side: side)
      switch content {
      case .empty: isAtEnd = true
      case .torn, .record, .otherVersion, .damaged:
        guard !isAtEnd else {
          throw .damaged(path: path, slot: slot, reason: "records before it are missing")
        }
      }
      switch content {
      case .empty: break
      case .record(let payload): payloads.append(payload)
      case .torn:
        isTorn = true
        isAtEnd = true
      case .damaged(let reason): throw .damaged(path: path, slot: slot, reason: reason)
      case .otherVersion(let version): throw .otherVersion(path: path, version: version)
      }
      slot += 1
    }
    self.payloads = payloads
    self.isTornAtEnd = isTorn
  }
}
