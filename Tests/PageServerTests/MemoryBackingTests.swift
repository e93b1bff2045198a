import CLinux
import Foundation
import Pages
import System
import Testing

@testable import PageServer

@Suite struct MemorySourceTests {
  @Test(arguments: [
    ("file:/dev/shm/vm", MemorySource.file(path: "/dev/shm/vm")),
    ("file:a:b", .file(path: "a:b")),
    ("snapshot:/x", .snapshot(path: "/x")),
    ("export:/x.pcx", .export(path: "/x.pcx")),
    ("pid:42", .process(pid: 42, ranges: [])),
    (
      "pid:42:1000-3000,7f0000000000-7f0000001000",
      .process(pid: 42, ranges: [0x1000..<0x3000, 0x7f00_0000_0000..<0x7f00_0000_1000])
    ),
  ]) func parsesAndPrints(_ text: String, _ expected: MemorySource) throws {
    #expect(try MemorySource(parsing: text) == expected)
    #expect(expected.description == text)
  }

  @Test func takesThePrefixOfHexadecimal() throws {
    #expect(
      try MemorySource(parsing: "pid:1:0x1000-0x2000")
        == .process(pid: 1, ranges: [0x1000..<0x2000]))
  }

  @Test(arguments: [
    ("", MemorySourceError.unknownForm("")), ("/dev/shm/vm", .unknownForm("/dev/shm/vm")),
    ("memfd:3", .unknownForm("memfd:3")), ("file:", .emptyPath("file:")),
    ("snapshot:", .emptyPath("snapshot:")), ("export:", .emptyPath("export:")),
    ("pid:", .badPID("")), ("pid:0", .badPID("0")),
    ("pid:-1", .badPID("-1")), ("pid:x", .badPID("x")), ("pid:1:", .badRange("")),
    ("pid:1:1000", .badRange("1000")), ("pid:1:2000-1000", .badRange("2000-1000")),
    ("pid:1:+1000-2000", .badRange("+1000-2000")), ("pid:1:0-zz", .badRange("0-zz")),
    ("pid:1:1000-2000,", .badRange("")), ("pid:1:1000-2001", .unalignedRange("1000-2001")),
    ("pid:1:1000-3000,2000-4000", .overlappingRanges("1000-3000", "2000-4000")),
  ]) func refuses(_ text: String, _ expected: MemorySourceError) {
    #expect(throws: expected) { try MemorySource(parsing: text) }
    #expect(!expected.description.isEmpty)
  }
}

@Suite struct FileBackingTests {
  @Test func readsPagesAndRuns() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill(0..<64)
    let backing = try memory.open()
    #expect(backing.naturalLayout.totalPageCount == PageCount(64))
    #expect(try backing.read(page: 63) == memory.content(63))
    #expect(try backing.read(page: 3, count: 16) == (3..<19).flatMap { memory.content($0) })
    guard case .file(_, let inode) = backing.identity else { return #expect(Bool(false)) }
    #expect(inode == (try FileStatus.of(memory.descriptor).inode))
  }

  @Test func findsHolesAndNeverFillsThem() throws {
    let memory = try TestMemory(pageCount: 64)
    try memory.fill([0, 1, 10, 63])
    let backing = try memory.open()
    try backing.markFrozen()
    let blocks = memory.blockCount()
    #expect(try backing.absentPages() == [2..<10, 11..<63])
    #expect(try backing.read(page: 5) == [UInt8](repeating: 0, count: 4096))
    #expect(try backing.read(page: 16, count: 16) == [UInt8](repeating: 0, count: 65536))
    #expect(memory.blockCount() == blocks)
  }

  @Test func anEmptyFileIsAllAbsent() throws {
    let backing = try TestMemory(pageCount: 16).open()
    #expect(try backing.absentPages() == [0..<16])
  }

  @Test func aShorterFileIsMemoryLost() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    let backing = try memory.open()
    try backing.markFrozen()
    try memory.descriptor.setByteCount(8 * 4096, operand: "test")
    let lost = MemoryError.truncated(name: memory.source.description, byteCount: 8 * 4096)
    #expect(throws: lost) { try backing.read(page: 12) }
    // Pages before the end are no more to be trusted: somebody is at work on the file.
    #expect(throws: lost) { try backing.read(page: 0) }
    #expect(throws: lost) { try backing.searchAbsent(in: 0..<65536) { _ in } }
    // Extended again, the lost pages read as zeros without any error of the kernel's.
    try memory.descriptor.setByteCount(16 * 4096, operand: "test")
    #expect(throws: MemoryError.changed(name: memory.source.description)) {
      try backing.read(page: 12)
    }
  }

  @Test func aShorterFileBeforeTheFreezeIsFoundAtTheFreeze() throws {
    let memory = try TestMemory(pageCount: 16)
    let backing = try memory.open()
    try memory.descriptor.setByteCount(4096, operand: "test")
    #expect(throws: MemoryError.truncated(name: memory.source.description, byteCount: 4096)) {
      try backing.markFrozen()
    }
  }

  @Test func aPunchedFileIsMemoryLost() throws {
    let memory = try TestMemory(pageCount: 16)
    try memory.fill(0..<16)
    // The freeze lies clearly after the file's last change, as it does in life; a punch in the
    // same tick of the file system's clock could not be told.
    var times = [timespec(tv_sec: 1, tv_nsec: 0), timespec(tv_sec: 1, tv_nsec: 0)]
    #expect(unsafe futimens(memory.descriptor.rawValue, &times) == 0)
    let backing = try memory.open()
    try backing.markFrozen()
    #expect(try backing.read(page: 4) == memory.content(4))
    memory.punch(page: 4)
    #expect(throws: MemoryError.changed(name: memory.source.description)) {
      try backing.read(page: 4)
    }
  }

  @Test func linksAndStoresToMappedPagesAreNoChange() throws {
    let path = "/dev/shm/page-server-test-\(getpid())"
    defer { unsafe unlink(path) }
    #expect(FileManager.default.createFile(atPath: path, contents: Data(count: 65536)))
    let backing = try MemorySource.file(path: path).open()
    let file = unsafe open(path, O_RDWR)
    defer { close(file) }
    let base = unsafe mmap(nil, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)!
    defer { unsafe munmap(base, 65536) }
    // The first store to a page counts as a change of the file, later ones do not.
    unsafe base.storeBytes(of: 6, as: UInt8.self)
    try backing.markFrozen()
    unsafe base.storeBytes(of: 7, as: UInt8.self)
    #expect(unsafe link(path, path + "-link") == 0)
    #expect(unsafe unlink(path + "-link") == 0)
    #expect(try backing.read(page: 0)[0] == 7)
  }

  @Test(.enabled(if: hasHugePages, "needs huge pages, or root to reserve them"))
  func hugePagesAreReadWhole() throws {
    let memory = try TestMemory(pageCount: 3, isHuge: true)
    try memory.fill([0, 2])
    let backing = try memory.open()
    try backing.markFrozen()
    #expect(backing.naturalLayout.regions[0].pageSize == .huge)
    #expect(try backing.read(page: 2, pageByteCount: 2 << 20) == memory.content(2))
    #expect(
      try backing.read(page: 1, pageByteCount: 2 << 20) == [UInt8](repeating: 0, count: 2 << 20))
    // hugetlbfs calls everything data: nothing may be taken for absent by mistake.
    #expect(try backing.absentPages() == [])
  }

  @Test func aSnapshotOnADiskIsServedLikeMemory() throws {
    let path = temporaryPath("snapshot")
    defer { unsafe unlink(path) }
    var bytes = Data(count: 16 * 4096)
    bytes.replaceSubrange(8192..<12288, with: TestMemory.content(2))
    #expect(FileManager.default.createFile(atPath: path, contents: bytes))
    let backing = try MemorySource.snapshot(path: path).open()
    try backing.markFrozen()
    #expect(try backing.read(page: 2) == TestMemory.content(2))
  }

  @Test func whatIsNoMemoryFileIsRefused() throws {
    #expect(throws: MemorySourceError.notARegularFile(path: "/dev/zero")) {
      try MemorySource.file(path: "/dev/zero").open()
    }
    #expect(throws: MemorySourceError.notARegularFile(path: "/tmp")) {
      try MemorySource.file(path: "/tmp").open()
    }
    let missing = #expect(throws: MemorySourceError.self) {
      try MemorySource.snapshot(path: "/nowhere/at/all").open()
    }
    if case .cannotOpen(_, let error) = missing {
      #expect(error.errno == .noSuchEntry)
    } else {
      Issue.record("\(String(describing: missing))")
    }
    let odd = try TestMemory(pageCount: 2)
    try odd.descriptor.setByteCount(4097, operand: "test")
    #expect(throws: MemorySourceError.layout(odd.source, .unaligned(RegionIndex(0)))) {
      try odd.open()
    }
  }

  @Test func aLayoutMustLieInTheMemory() throws {
    let backing = try TestMemory(pageCount: 16).open()
    func region(_ first: Int, _ count: Int, _ size: PageSize = .small) -> Region {
      Region(
        index: RegionIndex(0), imageOffset: ByteCount(first * 4096),
        byteCount: ByteCount(count * 4096), pageSize: size)
    }
    try backing.validate(try ImageLayout([region(0, 4), region(8, 8)]))
    #expect(throws: MemorySourceError.regionOutside(backing.source, RegionIndex(1))) {
      try backing.validate(try ImageLayout([region(0, 4), region(8, 9)]))
    }
    let big = try TestMemory(pageCount: 512).open()
    #expect(throws: MemorySourceError.pageSize(big.source, RegionIndex(0), expected: 4096)) {
      try big.validate(try ImageLayout([region(0, 512, .huge)]))
    }
  }

  @Test func onlyWhatProvesPoisonIsTakenForIt() {
    for medium in [MemoryFile.Medium.sharedMemory, .hugePages] {
      #expect(FileBacking.provesPoison(Errno(rawValue: EHWPOISON), on: medium))
      #expect(FileBacking.provesPoison(.inputOutput, on: medium))
      #expect(!FileBacking.provesPoison(.badAddress, on: medium))
      #expect(!FileBacking.provesPoison(.outOfMemory, on: medium))
    }
    #expect(!FileBacking.provesPoison(.inputOutput, on: .storage))
    #expect(FileBacking.provesPoison(Errno(rawValue: EHWPOISON), on: .storage))
  }
}
