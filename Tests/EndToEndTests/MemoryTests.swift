import CLinux
import Glibc
import GuestKit
import Pages
import ProgramHarness
import System
import Testing

extension EndToEnd {
  /// Memory that is not what it should be: at the source, and at the destination.
  @Suite("Memory")
  struct MemoryTests {
    /// A guest whose memory file has pages at its end that the guest never touches, so that cutting
    /// them off hurts the migration and not the guest.
    static let withTail = GuestShape(vcpus: 3, backing: "file")

    private static func setByteCount(_ byteCount: UInt64, of migration: Migration) throws {
      let path = try #require(migration.source.memoryFile)
      let file = try OwnedDescriptor.open(path, flags: O_RDWR)
      try file.setByteCount(byteCount, operand: path)
    }

    /// Where the pages begin that the guest never touches.
    private static func tailStart() throws -> UInt64 {
      let layout = try GuestLayout(
        byteCount: 16 << 20, vcpuCount: 3, pageSize: .small, seed: withTail.seed,
        removedMayKeep: true)
      try #require(layout.pagesEnd < layout.byteCount, "this shape has a tail")
      return layout.pagesEnd
    }

    @Test(
      "whose file shrinks before or while the VM is stopped ends it: the source runs on",
      arguments: ["post-copy", "quick"], [true, false])
    func shrinks(mode: String, isBefore: Bool) throws {
      let migration = try Migration(Self.withTail, Plan(mode: mode))
      let server = try migration.startServer()
      if isBefore { try Self.setByteCount(Self.tailStart(), of: migration) }
      // The VMM answers no more: its VM is being stopped as long as we like.
      try migration.source.signal(SIGSTOP)
      try migration.startReceiver()
      try migration.startDestination()
      if !isBefore {
        try server.waitFor(state: "pausing")
        try Self.setByteCount(Self.tailStart(), of: migration)
      }
      try migration.source.signal(SIGCONT)
      try server.expectEnd("aborted", exitCode: 11, saying: "shortened", source: Phrase.runs)
      try Self.setByteCount(16 << 20, of: migration)
      try migration.expectBothAborted(atDestination: "shortened")
    }

    @Test("whose file shrinks after GO: both park, nothing is made up")
    func shrinksAfterGo() throws {
      let migration = try Migration(
        GuestShape(
          memory: "64M", vcpus: 3, pattern: "rate-limited-write", backing: "file",
          more: ["--rate", "300"]), Plan(prefetch: "none"))
      try migration.startUntilRunning()
      let path = try #require(migration.source.memoryFile)
      let file = try OwnedDescriptor.open(path, flags: O_RDWR)
      try file.setByteCount(32 << 20, operand: path)
      try migration.expectServerParked(saying: "memory")
      try migration.receiver?.expectEnd("parked", exitCode: 12, destination: Phrase.runs)
      try migration.expectGuestWaits()
      try migration.cleanUpParked()
    }

    @Test(
      "of another shape at the destination is refused, and the right one still taken",
      arguments: [GuestShape(memory: "32M"), GuestShape(memory: "14M")])
    func wrongSize(shape: GuestShape) throws {
      let migration = try Migration()
      let server = try migration.startServer()
      try migration.startReceiver()
      try migration.startDestination(shape)
      try migration.receiver?.expectEnd(
        "refused", exitCode: 10, saying: "bytes", destination: Phrase.untouched)
      try server.waitFor("was refused")
      try migration.destination?.quit()
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }

    @Test(
      "of another page size at the destination is refused",
      .needsHugePages)
    func wrongPageSize() throws {
      let migration = try Migration()
      let server = try migration.startServer()
      try migration.startReceiver()
      try migration.startDestination(GuestShape(pageSize: "2M"))
      try migration.receiver?.expectEnd(
        "refused", exitCode: 10, saying: "page size", destination: Phrase.untouched)
      try server.signal(SIGINT)
      try server.expectEnd("aborted", exitCode: 11, source: Phrase.runs)
      try migration.expectSourceRunsOn()
    }

    @Test(
      "that is poisoned at the source is poison at the destination, never zeros",
      .enabled(if: Poison.isAvailable, "this kernel cannot poison a page (MADV_HWPOISON)"))
    func poison() throws {
      let migration = try Migration(
        GuestShape(memory: "16M", pattern: "rate-limited-read", more: ["--rate", "50"]))
      try Poison.inject(
        intoPage: 4000, of: #require(try migration.source.status.memoryPath))
      try migration.start()
      let end = try #require(migration.receiver).expectEnd("completed", exitCode: 0)
      #expect(end.message.contains("e2e"))
      let moved = try #require(try migration.destination?.status.memoryPath)
      let file = try OwnedDescriptor.open(moved, flags: O_RDONLY)
      #expect(throws: SystemError.self) {
        try file.read(byteCount: 4096, atOffset: 4000 * 4096, operand: moved)
      }
    }
  }
}

/// Hardware poison by the kernel's own test door.
enum Poison {
  /// Tried on a page of our own, which is given up for it.
  static let isAvailable: Bool = {
    let size = 4096
    guard
      let page = unsafe mmap(
        nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0),
      unsafe page != MAP_FAILED
    else { return false }
    defer { unsafe munmap(page, size) }
    return unsafe madvise(page, size, MADV_HWPOISON) == 0
  }()

  static func inject(intoPage index: Int, of path: String) throws {
    let file = try OwnedDescriptor.open(path, flags: O_RDWR)
    let page = unsafe mmap(
      nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file.rawValue, index * 4096)
    try #require(unsafe page != MAP_FAILED)
    defer { unsafe munmap(page, 4096) }
    try #require(unsafe madvise(page, 4096, MADV_HWPOISON) == 0)
  }
}
