import Glibc
import GuestKit
import Pages
import System
import Testing

@testable import GuestKit

/// The file of a disk for one test.
enum DiskFile {
  static let byteCount: UInt64 = 1 << 20

  /// Whether a file there can be opened for direct I/O, and is not on tmpfs.
  static let hasDirectIO: Bool =
    (try? with { path in
      guard try !FileSystem.isOnTmpfs(path) else { return false }
      _ = try OwnedDescriptor.open(path, flags: O_RDONLY | O_DIRECT)
      return true
    }) ?? false

  /// Deleted by `body`'s end.
  static func with<Result>(_ body: (String) throws -> Result) throws -> Result {
    let name = try RandomBytes.make(6).map { String($0, radix: 16) }.joined()
    let path = "/var/tmp/microvm-test-\(name).disk"
    try DiskBlock.makeFile(path: path, byteCount: byteCount)
    defer { _ = unsafe unlink(path) }
    return try body(path)
  }
}

/// A disk that reads into guest memory with direct I/O, as long as the guest runs.
@Suite(
  .serialized,
  .enabled(if: DiskFile.hasDirectIO, "needs direct I/O on the file system of /var/tmp"))
struct DiskTests {
  private static let bufferPageCount = 16

  private static func options(
    _ guest: GuestKind, disk: String?, _ pageSize: PageSize = .small
  ) -> MachineOptions {
    var options = MachineOptions.small(guest, operations: nil)
    options.backing = .anonymous
    options.pageSize = pageSize
    options.diskPath = disk
    options.bufferPageCount = bufferPageCount
    return options
  }

  /// Waits until the disk has read into each page of the buffer, and once more into the first.
  private func waitForReads(_ machine: TestMachine) throws {
    let first = record(machine)[0]
    try waitUntil("the disk reads into the whole buffer") {
      let record = record(machine)
      return record[0] != first && !record.contains(0)
    }
  }

  private func record(_ machine: TestMachine) -> [UInt64] {
    (0..<Self.bufferPageCount).map {
      machine.memory.word(at: machine.layout.offset(ofRecordOfBufferPage: $0))
    }
  }

  /// The record and the buffer as they are.
  private func deviceWords(_ machine: TestMachine) throws -> [UInt64] {
    try machine.memory.words(
      at: machine.layout.diskRecordOffset, count: (1 + Self.bufferPageCount) * 512)
  }

  @Test(arguments: Capability.guests)
  func aPausedGuestHasNoReadUnderWay(guest: GuestKind) throws {
    try DiskFile.with { path in
      let machine = try TestMachine(Self.options(guest, disk: path))
      for _ in 0..<20 {
        try machine.resume()
        try waitForReads(machine)
        try machine.pause(timeoutMilliseconds: 10_000)
        let before = try deviceWords(machine)
        _ = try machine.expectRightMemory()
        // What would land now lands while all of the memory is checked.
        #expect(try deviceWords(machine) == before)
      }
      #expect(machine.mismatches == [])
    }
  }

  @Test(arguments: Capability.guests)
  func aMovedGuestKeepsItsBufferAndReadsOn(guest: GuestKind) throws {
    try DiskFile.with { path in
      let source = try TestMachine(Self.options(guest, disk: path))
      try source.resume()
      try waitForReads(source)
      try source.pause(timeoutMilliseconds: 10_000)
      let state = try source.saveState()
      for disk in [nil, path] {
        let destination = try TestMachine(incoming: Self.options(guest, disk: disk))
        try destination.takeMemory(of: source)
        try destination.loadState(state)
        try destination.resume()
        try destination.waitForProgress()
        if disk != nil { try waitForReads(destination) }
        try destination.pause(timeoutMilliseconds: 10_000)
        _ = try destination.expectRightMemory()
        #expect((record(destination) == record(source)) == (disk == nil))
        let comparison = try ImageComparison(
          source: source.memory, destination: destination.memory)
        #expect(comparison.findings == Findings())
      }
      var other = Self.options(guest, disk: nil)
      other.bufferPageCount = 8
      let smaller = try TestMachine(incoming: other)
      try smaller.takeMemory(of: source)
      #expect(throws: ControlFailure.self) { try smaller.loadState(state) }
    }
  }

  @Test(arguments: Capability.guests)
  func aReadThatIsLostIsFound(guest: GuestKind) throws {
    try DiskFile.with { path in
      let source = try TestMachine(Self.options(guest, disk: path))
      try source.resume()
      try waitForReads(source)
      try source.pause(timeoutMilliseconds: 10_000)
      let page = 5
      let offset = source.layout.offset(ofBufferPage: page)
      let destination = try TestMachine(incoming: Self.options(guest, disk: path))
      try destination.takeMemory(of: source)
      // What was there before, as a block that is whole: another one.
      let stale = record(source)[page] % 200 + 1
      unsafe DiskBlock.content(stale).fill(destination.memory.pointer(at: offset))
      try destination.loadState(try source.saveState())
      let check = try destination.verify()
      #expect(check.findings.count == 1)
      #expect(check.findings.sentences.first?.contains("it holds block \(stale)") ?? false)
      let comparison = try ImageComparison(source: source.memory, destination: destination.memory)
      #expect(comparison.findings.count == 1)
      // The disk looks, too, before it reads over it.
      try destination.resume()
      try waitUntil("the guest stops") { destination.activity == .guestError }
      #expect(destination.mismatches.first?.imagePage == offset / 4096)
    }
  }

  @Test func anotherDisksRecordIsRefused() throws {
    try DiskFile.with { path in
      let source = try TestMachine(Self.options(.process, disk: path))
      try source.resume()
      try waitForReads(source)
      try source.pause(timeoutMilliseconds: 10_000)
      let destination = try TestMachine(incoming: Self.options(.process, disk: nil))
      try destination.takeMemory(of: source)
      destination.memory.setWord(
        at: source.layout.offset(ofRecordOfBufferPage: 3), to: record(source)[3] + 1)
      let state = try source.saveState()
      #expect {
        try destination.loadState(state)
      } throws: {
        "\($0)".contains("has read other blocks")
      }
    }
  }

  /// KVM does not see what threads of the VMM write.
  @Test(.enabled(if: Capability.hasKVM, "needs /dev/kvm"))
  func theDirtyLogNamesWhatTheDiskHasRead() throws {
    try DiskFile.with { path in
      let machine = try TestMachine(Self.options(.kvm, disk: path))
      try machine.startDirtyLog()
      _ = try machine.fetchDirtyLog()
      var told = Set<Int>()
      var before = try deviceWords(machine)
      for _ in 0..<5 {
        try machine.resume()
        try waitForReads(machine)
        // In the middle of reads.
        told = dirty(try machine.fetchDirtyLog())
        try machine.pause(timeoutMilliseconds: 10_000)
        told.formUnion(dirty(try machine.fetchDirtyLog()))
        let after = try deviceWords(machine)
        let first = Int(machine.layout.diskRecordOffset / 4096)
        for page in 0...Self.bufferPageCount
        where before[page * 512..<page * 512 + 512] != after[page * 512..<page * 512 + 512] {
          #expect(told.contains(first + page), "page \(page) behind the data")
        }
        before = after
      }
      #expect(told.contains(Int(machine.layout.diskRecordOffset / 4096)))
    }
  }

  private func dirty(_ bitmap: [UInt8]) -> Set<Int> {
    Set((0..<bitmap.count * 8).filter { bitmap[$0 >> 3] >> UInt8($0 & 7) & 1 == 1 })
  }

  @Test(.enabled(if: Capability.hasHugePages, "needs 32 free huge pages"))
  func theBufferIsPartOfAHugePage() throws {
    try DiskFile.with { path in
      let machine = try TestMachine(Self.options(.process, disk: path, .huge))
      #expect(machine.layout.diskRecordOffset % (2 << 20) == 0)
      #expect(machine.layout.pagesEnd <= machine.layout.diskRecordOffset)
      try machine.resume()
      try waitForReads(machine)
      try machine.pause(timeoutMilliseconds: 10_000)
      _ = try machine.expectRightMemory()
    }
  }

  /// Reads end with the guest's work.
  @Test func aGuestThatHasFinishedHasNoReadUnderWay() throws {
    try DiskFile.with { path in
      var options = Self.options(.process, disk: path)
      options.pattern.operationLimit = 5000
      let machine = try TestMachine(options)
      try machine.runToEnd()
      _ = try machine.expectRightMemory()
    }
  }

  @Test func disksThatCannotBeReadSoAreRefused() throws {
    try DiskFile.with { path in
      var small = Self.options(.process, disk: path)
      small.bufferPageCount = 3
      #expect(throws: MachineError.self) { _ = try TestMachine(small) }
      small.bufferPageCount = 512
      #expect(throws: MachineError.self) { _ = try TestMachine(small) }
    }
    let shared = "/dev/shm/microvm-test-\(getpid()).disk"
    try DiskBlock.makeFile(path: shared, byteCount: DiskFile.byteCount)
    defer { _ = unsafe unlink(shared) }
    #expect {
      _ = try TestMachine(Self.options(.process, disk: shared))
    } throws: {
      "\($0)".contains("direct I/O")
    }
  }
}
