import Glibc
import GuestKit
import ProgramHarness
import System
import Testing

extension EndToEnd {
  /// A guest that writes more than the link carries, slowed down so that its rounds may come to
  /// fit.
  @Suite("A guest that is slowed down")
  struct ThrottleTests {
    /// It writes all the time, and a round takes a second: none of them leaves less.
    private func migration(_ options: [String]) throws -> Migration {
      try Migration(
        GuestShape(memory: "32M", pattern: "random-write"),
        Plan(
          mode: "pre-copy",
          serverOptions: [
            "--throttle", "99", "--bandwidth", "\(32 << 20)", "--downtime-target", "0",
          ] + options))
    }

    /// How much of its time is taken from the guest.
    private func percent(_ vm: TestVM) throws -> Int { try #require(try vm.status.throttlePercent) }

    private func waitUntilFree(_ vm: TestVM) throws {
      let deadline = Patience.deadline()
      while try percent(vm) > 0 {
        guard MonotonicClock.now() < deadline else {
          throw HarnessError(description: "the guest is slow for ever")
        }
        try vm.program.pause()
      }
    }

    @Test("moves, and is at full speed there")
    func moves() throws {
      let migration = try migration(["--max-rounds", "5", "--at-limit", "switch"])
      try migration.start()
      try migration.server?.waitFor("the guest loses 20 % of its time")
      try migration.server?.waitFor("the guest loses 30 % of its time")
      try migration.expectCompletion()
    }

    @Test("is let go when the migration is aborted")
    func aborted() throws {
      let migration = try migration([])
      try migration.start()
      try migration.server?.waitFor("the guest loses")
      #expect(try percent(migration.source) > 0)
      try migration.server?.signal(SIGTERM)
      try migration.server?.expectEnd("aborted", exitCode: 11)
      #expect(try percent(migration.source) == 0)
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      try migration.expectSourceRunsOn()
    }

    @Test("gets its time back by itself when all processes of the migration are killed")
    func killed() throws {
      let migration = try migration([])
      try migration.start()
      let server = try #require(migration.server)
      try server.waitFor("the guest loses")
      try server.kill()
      #expect(try server.program.end() == .killed(signal: SIGKILL))
      try waitUntilFree(migration.source)
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      try migration.source.expectRunsAndVerifies()
    }
  }
}
