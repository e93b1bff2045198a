import Glibc
import Pages
import System
import Testing
import UFFD
import Wire

@testable import FaultHandler

/// Where seeds may go, and why not into the memory.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct SeedPlacementTests {
  /// What is said of memory of that shape, once `change` has been made to it.
  private func reason(
    _ shape: PlaneFixture.Shape = .init(sendsFile: true),
    _ change: (GuestMemory) throws -> Void = { _ in }
  ) throws -> String {
    let fixture = try PlaneFixture(shape)
    try change(fixture.guest)
    return fixture.memory.seedPlacement().stagingReason ?? "in place"
  }

  @Test func memoryThatIsWhollyItsFilesTakesThemInPlace() throws {
    #expect(try reason() == "in place")
  }

  @Test func aVMMThatSendsNoFileHasThemStaged() throws {
    #expect(try reason(.init(isShared: true)).contains("has not sent"))
  }

  @Test(.enabled(if: Machine.hasHugePages, "needs huge pages"))
  func hugePagesAreStaged() throws {
    #expect(
      try reason(.init(pageCounts: [2], pageSize: .huge, sendsFile: true)).contains("huge pages"))
  }

  @Test func aFileThatIsTooShortIsNotUsed() throws {
    // The file of the first of two regions.
    #expect(try reason(.init(pageCounts: [8, 8], sendsFile: true)).contains("too short"))
    #expect(
      try reason { try #require(ftruncate($0.fileNumber, 8192) == 0) }.contains("too short"))
  }

  @Test func aFileThatMayNotBeWrittenIsNotUsed() throws {
    #expect(try reason { try $0.seal() }.contains("cannot be written or punched"))
  }

  /// What is there already is neither seeded over nor fetched, in whatever mode: the memory is
  /// refused.
  @Test(arguments: [false, true])
  func aFileThatHoldsSomethingIsNotUsed(isWritten: Bool) throws {
    let change: (GuestMemory) throws -> Void = { guest in
      if isWritten { try guest.plant(1, page: 63) } else { try guest.allocate(page: 63) }
    }
    #expect(try reason { try change($0) }.contains("holds something"))
    let fixture = try PlaneFixture(.init(sendsFile: true))
    try fixture.memory.requireEmptyFile()
    try change(fixture.guest)
    do throws(Refusal) {
      try fixture.memory.requireEmptyFile()
      Issue.record("memory that holds something was taken")
    } catch {
      #expect(error.code == .unfit && error.reason.contains("new, empty file"), "\(error)")
    }
  }

  @Test(.enabled(if: Machine.hasHugePages, "needs huge pages"))
  func norAreHugePagesThatAreThere() throws {
    let fixture = try PlaneFixture(.init(pageCounts: [2], pageSize: .huge, sendsFile: true))
    try fixture.memory.requireEmptyFile()
    try fixture.guest.plant(1, page: 1)
    #expect(throws: Refusal.self) { try fixture.memory.requireEmptyFile() }
  }

  /// Nothing is opened that the VMM has not opened for writing, or that is no memory.
  @Test(arguments: [
    ("/proc/self/fd/", O_RDONLY, "not open for writing"),
    ("/proc/self/fd/", O_WRONLY, "not open for writing"),
    ("/proc/self/fd/", 0x20_0000, "not open for writing"),  // O_PATH, which Glibc does not bring.
    ("/dev/zero", O_RDWR, "not on tmpfs"),
  ])
  func onlyAnOpenMemoryFileIsOpened(path: String, flags: Int32, obstacle: String) throws {
    let fixture = try PlaneFixture(.init(sendsFile: true))
    let path = path == "/dev/zero" ? path : path + "\(fixture.guest.fileNumber)"
    let file = try OwnedDescriptor.open(path, flags: flags)
    let attached = try PlaneFixture.attach(
      fixture.regions, fixture.userfault, at: fixture.directory.file("other.sock"),
      file: file.rawValue)
    let reason = attached.seedPlacement().stagingReason
    #expect(reason?.contains(obstacle) == true, "\(reason ?? "-")")
  }

  @Test func aFileOfEndlessLengthIsNotUsed() throws {
    #expect(try reason { try #require(ftruncate($0.fileNumber, .max) == 0) }.contains("too long"))
  }

  @Test func memoryWithoutAUserfaultIsNotUsed() throws {
    #expect(try reason { try $0.userfault.unregister($0.range) }.contains("not registered"))
  }

  @Test func anotherFileIsNotUsed() throws {
    let fixture = try PlaneFixture()
    let other = try GuestMemory(
      pageCount: 64, isShared: true, userfault: fixture.userfault.handle)
    let shared = try PlaneFixture(.init(isShared: true))
    let attached = try PlaneFixture.attach(
      shared.regions, shared.userfault, at: fixture.directory.file("other.sock"),
      file: other.fileNumber)
    #expect(attached.seedPlacement().stagingReason?.contains("other memory than its file") == true)
    try other.userfault.unregister(other.range)
  }

  @Test func privateMemoryIsStaged() throws {
    let fixture = try PlaneFixture()
    let other = try OwnedDescriptor.memory(label: "other")
    let attached = try PlaneFixture.attach(
      fixture.regions, fixture.userfault, at: fixture.directory.file("other.sock"),
      file: other.rawValue)
    #expect(attached.seedPlacement().stagingReason?.contains("not shared") == true)
  }

  @Test func aFileThatIsMappedTwiceIsNotUsed() throws {
    var second: UnsafeMutableRawPointer?
    let reason = try reason { guest in
      let address = unsafe mmap(nil, 4096, PROT_READ, MAP_SHARED, guest.fileNumber, 0)
      unsafe second = try #require(address == MAP_FAILED ? nil : address)
    }
    #expect(reason.contains("a second time"))
    unsafe munmap(second, 4096)
  }

  /// Mounted nowhere, it could have been mounted to make huge pages.
  @Test(.enabled(if: Machine.canLimitMemory, "needs the right to make a tmpfs"))
  func aTmpfsThatNobodyKnowsIsNotUsed() throws {
    #expect(
      try reason(.init(limitByteCount: 64 * 4096, sendsFile: true)).contains("huge=unknown"))
  }

  private static let document = """
    [{"base_host_virt_addr":65536,"size":8192,"offset":0,"page_size":4096},
     {"base_host_virt_addr":131072,"size":4096,"offset":8192,"page_size":4096}]
    """

  @Test(
    arguments: [
      (["10000-12000 rw-s 0", "20000-21000 rw-s 2000"], nil),
      // In pieces, as different rights make of one mapping.
      (["10000-11000 rw-s 0", "11000-12000 rwxs 1000", "20000-21000 rw-s 2000"], nil),
      (["10000-11000 rw-s 0", "11000-12000 r--s 1000", "20000-21000 rw-s 2000"], "not write"),
      (["10000-12000 rw-s 1000", "20000-21000 rw-s 0"], "another order"),
      (["10000-12000 rw-s 0", "20000-21000 rw-s 1000"], "another order"),
      (["10000-11000 rw-s 0", "20000-21000 rw-s 2000"], "other memory"),
      (["11000-12000 rw-s 1000", "20000-21000 rw-s 2000"], "other memory"),
      (["10000-12000 rw-p 0", "20000-21000 rw-s 2000"], "other memory"),
      (["10000-13000 rw-s 0", "20000-21000 rw-s 2000"], "a second time"),
      (["10000-12000 rw-s 0", "20000-21000 rw-s 2000", "90000-91000 r--p 0"], "a second time"),
    ] as [([String], String?)])
  func eachPageIsMappedFromItsPlaceAndOnce(mappings: [String], obstacle: String?) throws {
    let text = mappings.map { "\($0) 00:05 77 /memfd:guest\nVmFlags: rd wr sh um" }.joined(
      separator: "\n")
    let found = AttachedMemory.obstacle(
      try AttachDocument(parsing: Array(Self.document.utf8)), ProcessMapping.parse(text),
      device: 5, inode: 77)
    #expect(obstacle.map { found?.contains($0) == true } ?? (found == nil), "\(found ?? "-")")
    // Of another file of that number.
    let other = AttachedMemory.obstacle(
      try AttachDocument(parsing: Array(Self.document.utf8)), ProcessMapping.parse(text),
      device: 6, inode: 77)
    #expect(other?.contains("other memory") == true)
  }
}
