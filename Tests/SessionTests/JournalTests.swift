import Glibc
import System
import Testing

@testable import Session

@Suite("Journal")
struct JournalTests {
  let scratch: ScratchDirectory
  var path: String { scratch.path("source.journal") }

  init() throws { scratch = try ScratchDirectory() }

  private func payload(_ number: Int) -> [UInt8] {
    [UInt8](repeating: UInt8(number + 1), count: number * 200 + 1)
  }

  private func fill(_ count: Int) throws -> [UInt8] {
    var journal = try Journal.open(path: path, side: .source)
    for number in 0..<count { try journal.append(payload(number)) }
    return try FileSystem.contents(ofSmallFile: path)
  }

  private func reopen() throws -> [[UInt8]] {
    try Journal.open(path: path, side: .source).recoveredPayloads
  }

  private func wasTorn() throws -> Bool {
    try Journal.open(path: path, side: .source).hadTornRecord
  }

  @Test("What was appended is found again, in order, and more can be appended")
  func roundTrip() throws {
    _ = try fill(3)
    var journal = try Journal.open(path: path, side: .source)
    #expect(journal.recoveredPayloads == [payload(0), payload(1), payload(2)])
    #expect(journal.hadTornRecord == false)
    try journal.append([9])
    #expect(try reopen() == [payload(0), payload(1), payload(2), [9]])
  }

  // Every byte through the scan; through files, which are synced, a choice that hits every field.

  private func scan(_ bytes: [UInt8]) throws(JournalError) -> [[UInt8]] {
    try JournalScan(bytes, side: .source, path: path).payloads
  }

  private func store(_ bytes: [UInt8]) throws { try scratch.write(bytes, to: "source.journal") }

  @Test("A write that stops after any byte of the last record leaves the ones before it")
  func tornAtEveryByte() throws {
    let whole = try fill(3)
    let start = 2 * JournalSlot.byteCount
    for length in 0..<JournalSlot.byteCount {
      var bytes = whole
      for index in start + length..<start + JournalSlot.byteCount { bytes[index] = 0 }
      if length <= JournalSlot.checksumOffset {
        #expect(try scan(bytes) == [payload(0), payload(1)], "torn after \(length) bytes")
      } else {
        // The checksum itself is begun: that cannot be told from damage any more.
        #expect(throws: JournalError.self) { try scan(bytes) }
      }
      guard length % 64 == 8, length <= JournalSlot.checksumOffset else { continue }
      try store(bytes)
      #expect(try wasTorn() == true)
      // Cut for good: the next reader does not see a tear any more.
      #expect(try wasTorn() == false)
      #expect(try reopen() == [payload(0), payload(1)])
    }
  }

  @Test("A file that ends after any byte keeps the whole records before its end")
  func cutAtEveryByte() throws {
    let whole = try fill(2)
    for length in 0...2 * JournalSlot.byteCount {
      let bytes = Array(whole[..<length])
      let inside = length % JournalSlot.byteCount
      guard inside <= JournalSlot.checksumOffset else {
        #expect(throws: JournalError.self) { try scan(bytes) }
        continue
      }
      let count = length / JournalSlot.byteCount
      #expect(try scan(bytes).count == count, "cut after \(length) bytes")
      guard length % 64 == 8 || inside == 0 else { continue }
      try store(bytes)
      #expect(try reopen().count == count)
    }
  }

  @Test("A changed byte anywhere in any record is an error that names the record")
  func damagedAtEveryByte() throws {
    let whole = try fill(3)
    for index in 0..<3 * JournalSlot.byteCount {
      var bytes = whole
      bytes[index] ^= 0x41
      let slot = index / JournalSlot.byteCount
      let error = #expect(throws: JournalError.self) { try scan(bytes) }
      guard case .damaged(_, slot, _) = error else {
        Issue.record("byte \(index): \(String(describing: error))")
        return
      }
      guard index % 64 == 8 else { continue }
      try store(bytes)
      #expect(throws: JournalError.self) { try reopen() }
      #expect(try FileSystem.contents(ofSmallFile: path) == bytes, "damage is left as it is")
    }
  }

  @Test("A record that was lost in the middle is damage, whether zeroed or torn")
  func middle() throws {
    let whole = try fill(3)
    for kept in [0, 100] {
      var bytes = whole
      for index in JournalSlot.byteCount + kept..<2 * JournalSlot.byteCount { bytes[index] = 0 }
      try scratch.write(bytes, to: "source.journal")
      #expect(
        throws: JournalError.damaged(
          path: path, slot: 2, reason: "records before it are missing")
      ) { try reopen() }
    }
  }

  @Test("Records of the other side, of another place and of another version are refused")
  func foreign() throws {
    let slot = { (sequence: UInt64, side: JournalSide) in
      JournalSlot.encode(payload: [1], sequence: sequence, side: side)
    }
    #expect(
      JournalSlot.decode(slot(0, .destination), sequence: 0, side: .source)
        == .damaged("it belongs to the other side"))
    #expect(
      JournalSlot.decode(slot(4, .source), sequence: 3, side: .source)
        == .damaged("it has sequence number 4 in place of 3"))
    #expect(
      JournalSlot.decode(slot(4, .source), sequence: 4, side: .source) == .record(payload: [1]))
  }

  @Test("A lazy record is there for the next reader, and behind a durable one")
  func lazy() throws {
    do {
      var journal = try Journal.open(path: path, side: .source)
      for number in 0..<20 { try journal.appendLazily([UInt8(number)]) }
      try journal.append([99])
    }
    #expect(try reopen() == (0..<20).map { [UInt8($0)] } + [[99]])
  }

  @Test("Room is made at each opening, and its end is an error")
  func room() throws {
    do {
      var journal = try Journal.open(path: path, side: .source)
      for _ in 0..<Journal.reservedSlotCount { try journal.appendLazily([1]) }
      #expect(throws: JournalError.full(path: path)) { try journal.append([1]) }
    }
    var journal = try Journal.open(path: path, side: .source)
    try journal.append([2])
    #expect(journal.recordCount == Journal.reservedSlotCount + 1)
  }

  @Test("A full disk is found when the journal is opened, not in the middle of a hand-over")
  func fullDisk() {
    #expect(
      throws: JournalError.unavailable(SystemError("pwrite", "/dev/full at 0", .noSpace))
    ) { _ = try Journal.open(path: "/dev/full", side: .source) }
  }

  // In processes of their own: the limit on file sizes holds for a whole process.

  @Test("A record that did not fit is certainly not there, and can be appended later")
  func refusedWrite() async {
    await #expect(processExitsWith: .success) {
      let scratch = try ScratchDirectory()
      let path = scratch.path("journal")
      var journal = try Journal.open(path: path, side: .source)
      try journal.append([1])
      try FileSizeLimit.set(UInt(JournalSlot.byteCount))
      let error = #expect(throws: JournalError.self) { try journal.append([2]) }
      let cause = SystemError("pwrite", "\(path) at 512", .fileTooLarge)
      try #require(error == .notWritten(cause))
      try FileSizeLimit.set(.max)
      try journal.append([3])
      try #require(try Journal.open(path: path, side: .source).recoveredPayloads == [[1], [3]])
    }
  }

  @Test("A record that was written half way is reported as uncertain, and nothing follows it")
  func halfWrite() async {
    await #expect(processExitsWith: .success) {
      let scratch = try ScratchDirectory()
      let path = scratch.path("journal")
      var journal = try Journal.open(path: path, side: .source)
      try journal.append([1])
      // Room for a part of the second slot only, for the record as for the zeros over it.
      try FileSizeLimit.set(UInt(JournalSlot.byteCount) + 100)
      let error = #expect(throws: JournalError.self) { try journal.append([2]) }
      try #require(error?.recordMayBeDurable == true)
      try FileSizeLimit.set(.max)
      let second = #expect(throws: JournalError.self) { try journal.append([3]) }
      try #require(second == .failedBefore(path: path))
      try #require(try Journal.open(path: path, side: .source).recoveredPayloads == [[1]])
    }
  }
}

/// The size up to which this process may write files.
enum FileSizeLimit {
  static func set(_ byteCount: UInt) throws {
    signal(SIGXFSZ, SIG_IGN)
    var limit = rlimit(rlim_cur: byteCount, rlim_max: .max)
    let kind = __rlimit_resource_t(RLIMIT_FSIZE.rawValue)
    try #require(unsafe setrlimit(kind, &limit) == 0)
  }
}
