import CLinux
import Codec
import Foundation
import Migration
import Pages
import System
import Testing
import Wire

@testable import PageServer

/// A file of both index and pages, small enough to be cut and changed at every border.
private func smallExport(isEncrypted: Bool = true) throws -> (ExportFixture, ExportHeader) {
  let fixture = try ExportFixture()
  let memory = try TestMemory(pageCount: 64)
  try memory.fill(0..<40)
  let header = try fixture.export(try memory.open(), isEncrypted: isEncrypted)
  return (fixture, header)
}

@Suite(.timeLimit(.minutes(5))) struct ExportRefusalTests {
  @Test(arguments: [true, false]) func aCutFileIsRefused(_ isEncrypted: Bool) throws {
    let (fixture, header) = try smallExport(isEncrypted: isEncrypted)
    let whole = try fixture.bytes()
    #expect(whole.count == Int(header.fileByteCount))
    #expect(fixture.refusal() == nil)
    let chunk = ExportFormat.chunkByteCount
    // Inside the magic, the version, each part of the header; at and around each border of chunks,
    // seals and trailer.
    var lengths = [1, 7, 8, 11, 12, 15, 16, 100, 511, 512, 4091, 4095, 4096, 4097]
    for number in 0...3 {
      lengths += [-33, -32, -1, 0, 1].map { 4096 + number * chunk + $0 }
    }
    lengths += [whole.count - 64, whole.count - 63, whole.count - 1]
    for length in Set(lengths).sorted() where length < whole.count {
      try fixture.replace(Array(whole[..<length]))
      let refusal = fixture.refusal()
      guard case .truncated(_, UInt64(length), _)? = refusal else {
        Issue.record("\(length) bytes: \(String(describing: refusal))")
        continue
      }
      #expect(refusal?.description.contains("is cut off") == true)
    }
    try fixture.replace([])
    #expect(fixture.refusal() == .notAnExport(path: fixture.path))
    try fixture.replace(whole + [0])
    #expect(
      fixture.refusal()
        == .tooLong(
          path: fixture.path, byteCount: header.fileByteCount + 1,
          expectedByteCount: header.fileByteCount))
    try fixture.replace(whole)
    #expect(fixture.refusal() == nil)
  }

  @Test(arguments: [true, false]) func aChangedByteIsFound(_ isEncrypted: Bool) throws {
    let (fixture, header) = try smallExport(isEncrypted: isEncrypted)
    let whole = try fixture.bytes()
    let start = header.byteCount
    let chunk = ExportFormat.chunkByteCount
    var places: [(Int, ExportPart)] = []
    for offset in 16..<600 { places.append((offset, .header)) }
    places.append((header.byteCount - 1, .header))
    for offset in [0, 8, 256, 300, 65_535, 65_536, 65_552, 65_560, 65_564, 65_567] {
      places.append((start + offset, .index))
      places.append((start + chunk + offset, .pages))
      places.append((start + 3 * chunk + offset, .pages))
    }
    for offset in 1...64 { places.append((whole.count - offset, .trailer)) }
    for (offset, part) in places {
      var changed = whole
      changed[offset] ^= 0x10
      try fixture.replace(changed)
      guard case .damaged(_, part, _)? = fixture.refusal() else {
        Issue.record("byte \(offset): \(String(describing: fixture.refusal()))")
        continue
      }
      // Without the token accidents are found all the same.
      #expect(throws: ExportError.self) {
        try ExportFile.open(fixture.path, token: nil).verify()
      }
    }
    for offset in 0..<8 {
      var changed = whole
      changed[offset] ^= 0x10
      try fixture.replace(changed)
      #expect(fixture.refusal() == .notAnExport(path: fixture.path))
    }
  }

  /// Puts right the checksum over `range`, which stands in its last four bytes.
  private func mend(_ bytes: inout [UInt8], _ range: Range<Int>) {
    let end = range.upperBound - 4
    var checksum: [UInt8] = []
    checksum.appendLittleEndian(
      CRC32C.checksum(of: bytes.rawBytes.extracting(range.lowerBound..<end)))
    bytes.replaceSubrange(end..<end + 4, with: checksum)
  }

  /// Whoever knows the format can mend the checksums, and cannot make the seals.
  @Test(arguments: [true, false]) func aForgeryIsFound(_ isEncrypted: Bool) throws {
    let (fixture, header) = try smallExport(isEncrypted: isEncrypted)
    let whole = try fixture.bytes()
    let chunk = ExportFormat.chunkByteCount
    let start = header.byteCount
    for (number, part) in [(0, ExportPart.index), (1, .pages), (3, .pages)] {
      let range = start + number * chunk..<start + (number + 1) * chunk
      for offset in [0, 300, 65_535, 65_536] {
        var forged = whole
        forged[range.lowerBound + offset] ^= 1
        mend(&forged, range)
        try fixture.replace(forged)
        #expect(
          fixture.refusal()
            == .forged(path: fixture.path, part, offset: UInt64(range.lowerBound)))
      }
    }
    // The epoch in the header, with checksums of header and trailer mended.
    var forged = whole
    forged[48] = 8
    forged[56] = 9
    mend(&forged, 0..<start)
    let trailer = whole.count - 64
    forged.replaceSubrange(trailer + 12..<trailer + 16, with: forged[start - 4..<start])
    mend(&forged, trailer..<whole.count)
    try fixture.replace(forged)
    #expect(fixture.refusal() == .forged(path: fixture.path, .header, offset: 0))
    #expect(fixture.refusal()?.description.contains("changed") == true)
  }

  @Test func chunksInAnotherPlaceOrOfAnotherExportAreFound() throws {
    let (fixture, header) = try smallExport()
    let whole = try fixture.bytes()
    let chunk = ExportFormat.chunkByteCount
    let start = header.byteCount
    func range(_ number: Int) -> Range<Int> {
      start + number * chunk..<start + (number + 1) * chunk
    }
    var swapped = whole
    swapped.replaceSubrange(range(1), with: whole[range(2)])
    swapped.replaceSubrange(range(2), with: whole[range(1)])
    try fixture.replace(swapped)
    #expect(
      fixture.refusal() == .damaged(path: fixture.path, .pages, offset: UInt64(start + chunk)))
    // The number mended as well: only the seal tells.
    swapped[start + chunk + 65_552] = 1
    mend(&swapped, range(1))
    try fixture.replace(swapped)
    #expect(
      fixture.refusal() == .forged(path: fixture.path, .pages, offset: UInt64(start + chunk)))
    let (other, _) = try smallExport()
    var mixed = whole
    mixed.replaceSubrange(range(1), with: try other.bytes()[range(1)])
    try fixture.replace(mixed)
    #expect(
      fixture.refusal() == .forged(path: fixture.path, .pages, offset: UInt64(start + chunk)))
  }

  @Test(arguments: [true, false]) func aHoleIsFound(_ isEncrypted: Bool) throws {
    let (fixture, header) = try smallExport(isEncrypted: isEncrypted)
    let whole = try fixture.bytes()
    let chunk = ExportFormat.chunkByteCount
    let start = header.byteCount
    let zeros = { (range: Range<Int>) in
      var holed = whole
      holed.replaceSubrange(range, with: repeatElement(0, count: range.count))
      return holed
    }
    for (range, part, offset) in [
      (0..<start, ExportPart.header, 0), (start..<start + chunk, .index, start),
      (start + chunk..<start + 2 * chunk, .pages, start + chunk),
      (whole.count - 64..<whole.count, .trailer, whole.count - 64),
    ] {
      try fixture.replace(zeros(range))
      #expect(
        fixture.refusal() == .hole(path: fixture.path, part, offset: UInt64(offset)))
      #expect(fixture.refusal()?.description.contains("hole") == true)
    }
    // A block of the file system's inside a chunk.
    try fixture.replace(zeros(start + chunk + 8192..<start + chunk + 12_288))
    #expect(
      fixture.refusal() == .damaged(path: fixture.path, .pages, offset: UInt64(start + chunk)))
  }

  @Test func anotherTokenIsToldFromDamage() throws {
    let (fixture, _) = try smallExport()
    let refusal = fixture.refusal(token: ExportFixture.token(2))
    #expect(refusal == .otherToken(path: fixture.path))
    #expect(refusal?.description.contains("another token") == true)
    let (plain, _) = try smallExport(isEncrypted: false)
    #expect(
      plain.refusal(token: ExportFixture.token(2)) == .otherToken(path: plain.path))
  }

  @Test func anotherVersionIsTold() throws {
    let (fixture, _) = try smallExport()
    var bytes = try fixture.bytes()
    bytes[8] = 2
    try fixture.replace(bytes)
    #expect(fixture.refusal() == .otherVersion(path: fixture.path, version: 2))
    #expect(fixture.refusal()?.description.contains("version 2") == true)
  }

  @Test func whatIsNoExportIsTold() throws {
    let fixture = try ExportFixture()
    #expect(throws: ExportError.notAFile(path: fixture.directory)) {
      try ExportFile.open(fixture.directory, token: fixture.token)
    }
    let missing = #expect(throws: ExportError.self) {
      try ExportFile.open(fixture.path, token: fixture.token)
    }
    #expect("\(try #require(missing))".contains("No such file"))
    for content in ["x", "#!/bin/sh\n" + String(repeating: "echo\n", count: 1000)] {
      try Data(content.utf8).write(to: URL(fileURLWithPath: fixture.path))
      #expect(fixture.refusal() == .notAnExport(path: fixture.path))
    }
    try FileManager.default.removeItem(atPath: fixture.path)
    #expect(unsafe mkfifo(fixture.path, 0o600) == 0)
    #expect(fixture.refusal() == .notAFile(path: fixture.path))
  }

  @Test func memoryInTheClearIsKeptFromOthers() throws {
    let (plain, _) = try smallExport(isEncrypted: false)
    for mode: mode_t in [0o640, 0o604, 0o620] {
      #expect(unsafe chmod(plain.path, mode) == 0)
      #expect(
        plain.refusal() == .notPrivate(path: plain.path, permissions: UInt32(mode)))
      #expect(plain.refusal()?.description.contains("chmod 600") == true)
    }
    let (encrypted, _) = try smallExport()
    #expect(unsafe chmod(encrypted.path, 0o644) == 0)
    #expect(encrypted.refusal() == nil, "anybody may carry what nobody can read")
  }

  /// A session that serves the file answers no page whose bytes changed after they were checked.
  @Test func aChangeWhileItIsServedIsMemoryLost() throws {
    let (fixture, header) = try smallExport()
    let backing = try fixture.open()
    try backing.file.verify()
    #expect(try backing.read(page: 0) == TestMemory.content(0))
    let file = try OwnedDescriptor.open(fixture.path, flags: O_RDWR)
    let pages = UInt64(header.byteCount + ExportFormat.chunkByteCount)
    let place = pages + UInt64(ExportFormat.chunkByteCount) + 5
    // What is sealed may be any byte: it is to be another one.
    let sealed = try file.read(byteCount: 1, atOffset: place, operand: "test")
    try file.writeAll([~sealed[0]], atOffset: place, operand: "test")
    let error = #expect(throws: MemoryError.self) { try backing.read(page: 20) }
    #expect("\(try #require(error))".contains("is damaged in its pages"))
    try file.setByteCount(pages + 10, operand: "test")
    let cut = #expect(throws: MemoryError.self) { try backing.read(page: 33) }
    #expect("\(try #require(cut))".contains("is cut off"))
  }

  /// In a mount namespace of the thread's own, so that nothing is left behind.
  @Test(.enabled(if: geteuid() == 0, "a full file system needs root to be mounted"))
  func aFullDiskLeavesNothingBehind() throws {
    let fixture = try ExportFixture()
    let memory = try TestMemory(pageCount: 256)
    try memory.fill(0..<256)
    let backing = try memory.open()
    let result = Lock<(error: ExportError?, left: [String], isMounted: Bool)>((nil, [], false))
    let isDone = DispatchSemaphore(value: 0)
    let directory = fixture.directory
    let request = fixture.request()
    Thread.detachNewThread {
      defer { isDone.signal() }
      // unsafe: constant strings and no data.
      let flags = UInt(MS_REC | MS_PRIVATE)
      guard unshare(CLONE_NEWNS) == 0, unsafe mount(nil, "/", nil, flags, nil) == 0,
        unsafe mount("tmpfs", directory, "tmpfs", 0, "size=512k") == 0
      else { return }
      do throws(ExportError) {
        var exporter = try Exporter(request, of: backing)
        _ = try exporter.write(estimate: try exporter.estimate())
      } catch { result.withLock { $0.error = error } }
      let left = try? FileManager.default.contentsOfDirectory(atPath: directory)
      result.withLock {
        $0.left = left ?? ["unreadable"]
        $0.isMounted = true
      }
    }
    isDone.wait()
    let (error, left, isMounted) = result.withLock { $0 }
    guard isMounted else { return withKnownIssue { Issue.record("no mount namespace here") } }
    guard case .noSpace(_, let needed, let available)? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(needed > 1 << 20 && available <= 512 << 10)
    #expect("\(try #require(error))".contains("no room"))
    #expect(left.isEmpty)
  }
}
