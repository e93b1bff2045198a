import Glibc
import GuestKit
import ProgramHarness
import Reporting
import Session
import System
import Testing

extension EndToEnd {
  /// A guest that writes more than the link carries, in a VMM with a control group of its own.
  @Suite("A guest that is slowed down by its control group", .needsProcessorGroup)
  struct GroupThrottleTests {
    private static let shape = GuestShape(memory: "32M", pattern: "random-write")
    private let group: ProcessorGroup
    private let workspace: Workspace

    init() throws {
      group = try ProcessorGroup()
      workspace = try Workspace()
    }

    /// It writes all the time, and a round takes a second: none of them leaves less.
    private func migration(isInGroup: Bool = true, _ options: [String] = []) throws -> Migration {
      let source = try TestVM(
        "source", Self.shape, in: workspace, prefix: isInGroup ? group.prefix : [])
      try source.waitUntilReady()
      return try Migration(
        adopting: source, shape: Self.shape,
        Plan(
          mode: "pre-copy",
          serverOptions: [
            // The first step, and the last: one value is possible.
            "--throttle", "20", "--throttle-by", "cgroup", "--bandwidth", "\(32 << 20)",
            "--downtime-target", "0",
          ] + options))
    }

    /// In the run directory of the host: found by the group's number.
    private var record: String {
      get throws {
        let directory = try StateDirectory.ofThisProcess()
        return "\(directory.runPath)/throttle/v1-\(try FileStatus.of(path: group.path).inode)"
      }
    }

    private func waitUntilUnbound(_ migration: Migration) throws {
      let deadline = Patience.deadline()
      while group.quota != "-1" {
        guard MonotonicClock.now() < deadline else {
          throw HarnessError(description: "the group is bound for ever: \(group.quota ?? "gone")")
        }
        try migration.source.program.pause()
      }
    }

    @Test(
      "moves, and the bound that an operator has set is there again", arguments: ["-1", "90000"])
    func moves(quota: String) throws {
      try group.setQuota(quota)
      let migration = try migration(["--max-rounds", "5", "--at-limit", "switch"])
      try migration.start()
      let server = try #require(migration.server)
      try server.waitFor("the guest loses 20 % of its time (by cgroup)")
      try server.waitFor(state: "pausing")
      // Behind the last round: the VMM is not slow while its guest stands still.
      #expect(group.quota == quota)
      try migration.expectCompletion()
      #expect(server.report?.rounds?.throttleMeans == "cgroup")
      #expect(group.quota == quota)
      #expect(!FileSystem.exists(try record))
    }

    @Test("has its bound back when the migration is aborted")
    func aborted() throws {
      let migration = try migration()
      try migration.start()
      let server = try #require(migration.server)
      try server.waitFor("the guest loses 20 %")
      // One vCPU, so a fifth of one processor is taken.
      #expect(group.quota == "80000")
      try server.signal(SIGTERM)
      try server.expectEnd("aborted", exitCode: 11)
      #expect(group.quota == "-1")
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      try migration.expectSourceRunsOn()
    }

    @Test("has its bound back when all processes of the migration are killed")
    func killed() throws {
      let migration = try migration()
      try migration.start()
      let server = try #require(migration.server)
      try server.waitFor("the guest loses")
      #expect(group.quota != "-1")
      try server.kill()
      #expect(try server.program.end() == .killed(signal: SIGKILL))
      try waitUntilUnbound(migration)
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      try migration.source.expectRunsAndVerifies()
    }

    @Test(
      "has its bound back with the next page-server when its keeper is killed with all others",
      arguments: ["send", "recover"])
    func keeperKilled(verb: String) throws {
      let migration = try migration()
      try migration.start()
      let server = try #require(migration.server)
      try server.waitFor("the guest loses")
      let keeper = try ProcessHandle.open(pid: try #require(server.grandchildren.first))
      // Nobody of them may put it back while the others end.
      try server.stop(true)
      try keeper.kill()
      try server.kill()
      #expect(try server.program.end() == .killed(signal: SIGKILL))
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      #expect(group.quota != "-1")
      #expect(FileSystem.exists(try record))
      if verb == "send" {
        try migration.startServer()
        try migration.server?.signal(SIGTERM)
      } else {
        try migration.recoverServer()
      }
      try migration.server?.waitFor("has its bound of processor time again")
      try migration.server?.expectEnd("aborted", exitCode: 11)
      #expect(group.quota == "-1")
      #expect(!FileSystem.exists(try record))
      try migration.expectSourceRunsOn()
    }

    @Test("that is not its own is refused before anything moves")
    func refused() throws {
      let outside = try migration(isInGroup: false)
      try outside.startServer(waits: false)
        .expectEnd("refused", exitCode: 10, saying: "root control group", "systemd-run --scope")
      try outside.expectSourceRunsOn()
      let inside = try migration()
      let other = try Program("other", group.prefix + ["tail", "-f", "/dev/null"])
      try group.waitFor(member: other)
      try inside.startServer(waits: false)
        .expectEnd("refused", exitCode: 10, saying: group.path, "process \(other.pid) is in it too")
      #expect(group.quota == "-1")
      try inside.expectSourceRunsOn()
    }
  }
}
