import Glibc
import Pages
import ProgramHarness
import System
import Testing
import Uring
import Wire

extension EndToEnd {
  /// A host that cannot do what is asked of it.
  @Suite("A host", .enabled(if: Machine.isRoot, "needs root: mounts, users, control groups"))
  struct HostTests {
    @Test("whose state directory is full at the source refuses, and the VM runs on")
    func fullAtSource() throws {
      let migration = try Migration()
      let mount = try FullMount(migration.workspace.file("full"))
      try mount.fill()
      migration.sourceStateDirectory = mount.path
      let end = try migration.startServer(waits: false).expectEnd(
        "refused", exitCode: 10, saying: "No space left")
      #expect(end.message.contains(mount.path))
      try migration.expectSourceRunsOn()
    }

    @Test("whose state directory is full at the destination gives up, and the source runs on")
    func fullAtDestination() throws {
      let migration = try Migration()
      let mount = try FullMount(migration.workspace.file("full"))
      try mount.fill()
      migration.destinationStateDirectory = mount.path
      try migration.startReceiver(waits: false).expectEnd(
        "refused", exitCode: 10, saying: "No space left")
      try migration.expectSourceRunsOn()
    }

    @Test("whose state directory fills up during the hand-over: the migration still completes")
    func fillsUp() throws {
      let migration = try Migration()
      let mount = try FullMount(migration.workspace.file("full"))
      migration.sourceStateDirectory = mount.path
      try migration.startAndHoldInLoad()
      // The journal has taken its room when the session was opened.
      try mount.fill()
      try migration.destination?.signal(SIGCONT)
      try migration.expectCompletion()
    }

    @Test("without permission for userfaultfd says so at the VMM")
    func noPermission() throws {
      let migration = try Migration()
      try migration.startReceiver()
      let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
      migration.prefixes["microvm"] = nobody
      // The directory and the socket are open to it: what it lacks is the userfaultfd alone.
      try #require(unsafe chmod(migration.workspace.path, 0o777) == 0)
      try #require(unsafe chmod(migration.attachPath, 0o777) == 0)
      let error = #expect(throws: HarnessError.self) {
        var shape = migration.shape
        shape.isProcess = true
        try migration.startDestination(shape)
      }
      #expect(error?.description.contains("userfault") ?? false, "\(error?.description ?? "")")
      try migration.receiver?.signal(SIGTERM)
      try migration.receiver?.expectEnd("refused", exitCode: 10, destination: Phrase.untouched)
      try migration.expectSourceRunsOn()
    }

    @Test("where postcopyd may not look at the VMM refuses it: nobody could keep its memory safe")
    func foreignVMM() throws {
      let migration = try Migration()
      migration.prefixes["postcopyd"] = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
      ]
      try #require(unsafe chmod(migration.workspace.path, 0o777) == 0)
      let token = try migration.workspace.write(
        TokenBytes.read(migration.workspace.file("token")), to: "nobody-token")
      try #require(unsafe chown(token, 65534, 65534) == 0)
      let server = try migration.startServer()
      try migration.startReceiver(token: token)
      try migration.startDestination()
      try migration.receiver?.expectEnd("refused", exitCode: 10, destination: Phrase.untouched)
      try server.signal(SIGTERM)
      try server.expectEnd("aborted", exitCode: 11, source: Phrase.runs)
      try migration.expectSourceRunsOn()
    }

    @Test(
      "that runs out of memory: the VM waits at the destination until there is some again",
      .enabled(if: MemoryGroup.isAvailable, "needs a writable memory control group (version 1)"))
    func outOfMemory() throws {
      let migration = try Migration(
        GuestShape(memory: "64M", vcpus: 2, more: ["--fill-percent", "100"]))
      let group = try MemoryGroup(limitByteCount: 256 << 20)
      migration.prefixes["microvm"] = group.prefix
      try migration.startReceiver()
      try migration.startDestination()
      try migration.receiver?.waitFor("has attached")
      // Enough for the VMM and a part of the guest.
      try group.setLimit(byteCount: 48 << 20)
      try migration.startServer()
      try migration.receiver?.waitFor("out of memory")
      #expect(!(migration.receiver?.program.hasEnded ?? true))
      try group.setLimit(byteCount: 256 << 20)
      try migration.expectCompletion()
    }

    @Test(
      "that has not the memory for the VM refuses it before anything is changed",
      .enabled(if: MemoryGroup.isAvailable, "needs a writable memory control group (version 1)"))
    func tooSmall() throws {
      let migration = try Migration(GuestShape(memory: "64M"))
      let group = try MemoryGroup(limitByteCount: 48 << 20)
      migration.prefixes["microvm"] = group.prefix
      let server = try migration.startServer()
      try migration.startReceiver()
      try migration.startDestination()
      try migration.receiver?.expectEnd(
        "refused", exitCode: 10, saying: "64 MiB", "memory limit", destination: Phrase.untouched)
      try server.signal(SIGTERM)
      try server.expectEnd("aborted", exitCode: 11, source: Phrase.runs)
      try migration.expectSourceRunsOn()
    }

    @Test(
      "that finds no page-server where it dials says what is there",
      arguments: ["version", "http", "random"])
    func notASource(kind: String) throws {
      let migration = try Migration()
      try answer(kind, for: migration)
      let receiver = try #require(migration.receiver)
      try receiver.expectEnd(
        "refused", exitCode: 10, saying: kind == "version" ? "version 9" : "",
        destination: Phrase.untouched)
      try migration.expectSourceRunsOn()
    }

    /// Listens where page-server would, and says something else than page-server.
    private func answer(_ kind: String, for migration: Migration) throws {
      let listener = try Listener(Endpoint(parsing: migration.listenAddress))
      try migration.startReceiver()
      try migration.startDestination()
      let connection = try listener.accept(until: Patience.deadline())
      let answer: [UInt8]
      switch kind {
      case "version":
        answer = Refusal(.version, "the source speaks protocol version 9")
          .encodedFrame(session: 0)
      case "http":
        answer = Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8) + [UInt8](repeating: 32, count: 64)
      default: answer = try RandomBytes.make(512)
      }
      try Visitor(connection: connection).say(answer)
    }

    @Test("whose destination has a wrong token, or none, is refused")
    func wrongToken() throws {
      let migration = try Migration()
      let server = try migration.startServer()
      let other = try migration.workspace.write(RandomBytes.make(32), to: "other-token")
      try migration.startReceiver(token: other)
      try migration.startDestination()
      try migration.receiver?.expectEnd("refused", exitCode: 10, saying: "token")
      try server.waitFor("was refused: the token")
      try migration.startReceiver(waits: false, token: migration.workspace.file("none"))
        .expectEnd("refused", exitCode: 10, saying: "none")
      try migration.destination?.quit()
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }
  }
}

enum TokenBytes {
  static func read(_ path: String) throws -> [UInt8] {
    try FileSystem.contents(ofSmallFile: path)
  }
}

/// A tiny file system of its own; unmounted when it goes.
final class FullMount {
  let path: String

  init(_ path: String) throws {
    self.path = path
    try FileSystem.createDirectories(path, permissions: 0o700)
    let mount = try Program(
      "mount", ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", path])
    try #require(try mount.end() == .exited(code: 0))
  }

  deinit { _ = try? Program("umount", ["umount", path]).end() }

  /// Takes all the room that is left.
  func fill() throws {
    let file = try OwnedDescriptor.open("\(path)/ballast", flags: O_WRONLY | O_CREAT, mode: 0o600)
    var offset: UInt64 = 0
    while true {
      do {
        try file.writeAll([UInt8](repeating: 1, count: 4096), atOffset: offset, operand: path)
      } catch {
        try #require(error.errno == .noSpace)
        return
      }
      offset += 4096
    }
  }
}
