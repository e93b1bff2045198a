import Glibc
import Pages
import System
import Testing
import Wire

@testable import Session

@Suite("State directory")
struct StateDirectoryTests {
  @Test("root, XDG, home and --state-dir each have their place")
  func usual() throws {
    let usual = {
      (override: String?, root: Bool, environment: [String: String]) throws(StateError) in
      try StateDirectory.usual(
        override: override, isRoot: root, user: 1000, environment: environment,
        isOnTmpfs: { $0.hasPrefix("/run") })
    }
    let home = ["HOME": "/home/u"]
    let xdg = ["HOME": "/home/u", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/run/user/1000"]
    #expect(
      try usual(nil, true, xdg)
        == StateDirectory(statePath: "/var/lib/postcopy", runPath: "/run/postcopy"))
    #expect(
      try usual(nil, false, xdg)
        == StateDirectory(statePath: "/s/postcopy", runPath: "/run/user/1000/postcopy"))
    #expect(
      try usual(nil, false, home)
        == StateDirectory(
          statePath: "/home/u/.local/state/postcopy", runPath: "/dev/shm/postcopy-1000"))
    let container = try StateDirectory.usual(
      isRoot: true, user: 0, environment: [:], isOnTmpfs: { _ in false })
    #expect(container.runPath == "/dev/shm/postcopy")
    #expect(try usual("/mine", true, [:]).statePath == "/mine")
    #expect(throws: StateError.noHome) { try usual(nil, false, ["HOME": "relative"]) }
    #expect(try StateDirectory.ofThisProcess(override: "/mine").statePath == "/mine")
  }

  @Test("Names become different file names, and bad ones are refused")
  func names() throws {
    #expect(try VMName("web-1.example").fileName == "web-1.example")
    #expect(try VMName("..").fileName == "%2E.")
    #expect(try VMName("a/b").fileName == "a%2Fb")
    #expect(try VMName("ü").fileName == "%C3%BC")
    let long = try VMName(String(repeating: "/", count: 255)).fileName
    let other = try VMName(String(repeating: "/", count: 254)).fileName
    #expect(long.utf8.count == 200 && other.utf8.count == 200 && long != other)
    for bad in ["", String(repeating: "x", count: 256), "a\nb", "a\u{7F}"] {
      #expect(throws: StateError.self) { try VMName(bad) }
    }
  }

  @Test("Directories are private, and one that others may write into is refused with the remedy")
  func permissions() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(
      statePath: scratch.path("a/b/state"), runPath: scratch.path("run"))
    let name = try VMName("web1")
    try directory.prepare(vm: name)
    try directory.prepare(vm: name)
    try directory.prepare(session: Marks.session)
    for path in [directory.statePath, directory.path(ofVM: name), directory.runPath] {
      #expect(try FileStatus.of(path: path).permissions == 0o700)
    }
    try directory.remove(session: Marks.session)
    #expect(throws: SystemError.self) {
      try FileStatus.of(path: directory.path(of: Marks.session))
    }
    _ = unsafe chmod(directory.statePath, 0o770)
    let error = #expect(throws: StateError.self) { try directory.prepare(vm: name) }
    #expect(error?.description.contains("chmod go-w \(directory.statePath)") == true)
  }

  @Test("One session a VM and side: the second is told who has the lock")
  func doubleLock() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(statePath: scratch.path("s"), runPath: scratch.path("r"))
    let name = try VMName("web1")
    try directory.prepare(vm: name)
    do {
      let first = try VMLock.take(vm: name, side: .source, in: directory)
      let error = #expect(throws: StateError.self) {
        _ = try VMLock.take(vm: name, side: .source, in: directory)
      }
      guard case .busy("web1", .source, let holder) = error else {
        Issue.record("\(String(describing: error))")
        return
      }
      #expect(holder.hasPrefix("pid \(getpid()) since "))
      _ = try VMLock.take(vm: name, side: .destination, in: directory)
      withExtendedLifetime(first) {}
    }
    _ = try VMLock.take(vm: name, side: .source, in: directory)
  }

  @Test("A lock is given back even while a child that starts has a copy of its descriptor")
  func lockWithHeir() throws {
    let scratch = try ScratchDirectory()
    let directory = StateDirectory(statePath: scratch.path("s"), runPath: scratch.path("r"))
    let name = try VMName("web1")
    try directory.prepare(vm: name)
    var heir: Int32 = -1
    do {
      let lock = try VMLock.take(vm: name, side: .source, in: directory)
      let path = directory.lockPath(ofVM: name, side: .source)
      let inode = try FileStatus.of(path: path).inode
      heir =
        (0..<Int32(4096)).first { descriptor in
          var status = stat()
          return unsafe fstat(descriptor, &status) == 0 && status.st_ino == inode
            && status.st_size > 0
        }.map { dup($0) } ?? -1
      withExtendedLifetime(lock) {}
    }
    try #require(heir >= 0)
    defer { close(heir) }
    _ = try VMLock.take(vm: name, side: .source, in: directory)
  }

  @Test("A session id is written and read like a UUID")
  func sessionID() throws {
    let text = "01234567-89ab-cdef-fedc-ba9876543210"
    #expect(Marks.session.text == text)
    #expect(SessionID(text: text) == Marks.session)
    #expect(SessionID.none.text == "00000000-0000-0000-0000-000000000000")
    for bad in ["", text + "0", "0123456789abcdeffedcba9876543210", "+1234567" + text.dropFirst(8)]
    {
      #expect(SessionID(text: bad) == nil)
    }
    let random = try SessionID.random()
    #expect(random.text.dropFirst(14).first == "4")
    #expect(random.low >> 62 == 0b10)
    #expect(try SessionID.random() != random)
  }
}

@Suite("Token files")
struct TokenFileTests {
  let scratch: ScratchDirectory

  init() throws { scratch = try ScratchDirectory() }

  @Test("A token that was made can be read, is private, and is never overwritten")
  func create() throws {
    let path = scratch.path("token")
    try TokenFile.create(path)
    #expect(try FileStatus.of(path: path).permissions == 0o600)
    let token = try TokenFile.read(path)
    #expect(
      throws: TokenFileError.system(SystemError("open", path, .exists))
    ) { try TokenFile.create(path) }
    #expect(try TokenFile.read(path).matches(token))
    try TokenFile.create(scratch.path("other"))
    #expect(try !TokenFile.read(scratch.path("other")).matches(token))
  }

  @Test("A token that others can read is refused", arguments: [0o640, 0o604, 0o660, 0o610, 0o777])
  func shared(permissions: Int) throws {
    try scratch.write([UInt8](repeating: 1, count: 32), to: "t", permissions: UInt32(permissions))
    let error = #expect(throws: TokenFileError.self) { _ = try TokenFile.read(scratch.path("t")) }
    #expect(error?.description.contains("chmod 600 \(scratch.path("t"))") == true)
  }

  @Test("A token of another length is refused", arguments: [0, 1, 31, 33, 64])
  func length(byteCount: Int) throws {
    try scratch.write([UInt8](repeating: 1, count: byteCount), to: "t")
    let path = scratch.path("t")
    #expect(
      throws: TokenFileError.wrongByteCount(path: path, byteCount: UInt64(byteCount))
    ) { _ = try TokenFile.read(path) }
  }

  @Test("A missing file, a directory and a pipe are refused at once")
  func notAFile() throws {
    let pipe = scratch.path("pipe")
    try #require(unsafe mkfifo(pipe, 0o600) == 0)
    for path in [pipe, scratch.path] {
      #expect(throws: TokenFileError.notAFile(path: path)) { _ = try TokenFile.read(path) }
    }
    let error = #expect(throws: TokenFileError.self) { _ = try TokenFile.read(scratch.path("no")) }
    #expect(error?.description.contains("postcopyctl token \(scratch.path("no"))") == true)
  }
}

@Suite("Page state file")
struct PageStateFileTests {
  let scratch: ScratchDirectory
  let pages = PageCount(rawValue: 5000)

  init() throws { scratch = try ScratchDirectory() }

  @Test("States begin missing and survive their mapping")
  func roundTrip() throws {
    let path = scratch.path("page-state")
    do {
      let mapping = try PageStateFile.create(path, session: Marks.session, pageCount: pages)
      #expect(mapping.byteCount == 5000)
      // unsafe: the mapping lives to the end of this scope.
      let bytes = unsafe mapping.bytes
      #expect(unsafe bytes.allSatisfy { $0 == 0 })
      unsafe bytes[0] = 2
      unsafe bytes[4999] = 5
    }
    let mapping = try PageStateFile.open(path, session: Marks.session, pageCount: pages)
    // unsafe: the mapping lives to the end of this scope.
    let bytes = unsafe mapping.bytes
    #expect(unsafe bytes[0] == 2 && bytes[1] == 0 && bytes[4999] == 5)
    // All space is taken: a store cannot meet a full file system.
    var status = stat()
    try #require(unsafe stat(path, &status) == 0)
    #expect(Int(status.st_blocks) * 512 >= 8192 + 64)
    #expect(throws: PageStateFileError.self) {
      _ = try PageStateFile.create(path, session: Marks.session, pageCount: pages)
    }
  }

  @Test("The file of another session or image, or one that is cut, is refused")
  func foreign() throws {
    let path = scratch.path("page-state")
    _ = try PageStateFile.create(path, session: Marks.session, pageCount: pages)
    let isForeign = { (session: SessionID, count: UInt64) in
      do throws(PageStateFileError) {
        _ = try PageStateFile.open(path, session: session, pageCount: PageCount(rawValue: count))
        return false
      } catch {
        if case .foreign = error { return true }
        return false
      }
    }
    #expect(!isForeign(Marks.session, 5000))
    #expect(isForeign(SessionID.none, 5000))
    #expect(isForeign(Marks.session, 4999))
    #expect(isForeign(Marks.session, 50_000))
    try OwnedDescriptor.open(path, flags: O_RDWR).setByteCount(8192 + 63, operand: path)
    #expect(isForeign(Marks.session, 5000))
  }

  @Test("No file is left on a disk or where there is no room")
  func noRoom() async {
    await #expect(processExitsWith: .success) {
      let scratch = try ScratchDirectory()
      let path = scratch.path("page-state")
      try FileSizeLimit.set(4096)
      #expect(throws: PageStateFileError.self) {
        _ = try PageStateFile.create(
          path, session: Marks.session, pageCount: PageCount(rawValue: 5000))
      }
      try #require((try? FileStatus.of(path: path)) == nil)
    }
  }

  @Test(
    "A file system on disk is refused", .enabled(if: (try? FileSystem.isOnTmpfs("/tmp")) == false))
  func onDisk() throws {
    let disk = try ScratchDirectory(parent: "/tmp")
    let path = disk.path("page-state")
    #expect(throws: PageStateFileError.notOnTmpfs(path: path)) {
      _ = try PageStateFile.create(path, session: Marks.session, pageCount: pages)
    }
    #expect((try? FileStatus.of(path: path)) == nil)
  }
}
