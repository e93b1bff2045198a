import Glibc
import GuestKit
import Migration
import ProgramHarness
import Reporting
import Session
import System
import Testing
import Wire

extension EndToEnd {
  /// A VMM whose disk is slow, so that reads into guest memory are under way at each look at what
  /// was written.
  @Suite("A guest whose disk does direct I/O", .needsThrottledDisk)
  struct DirectIOTests {
    /// Reads that are under way are complete within a seventh of a second.
    private static let readsPerSecond = 30
    private let disk: ThrottledDisk
    private let workspace: Workspace

    init() throws {
      disk = try ThrottledDisk(readsPerSecond: Self.readsPerSecond)
      workspace = try Workspace()
    }

    private func shape(_ options: String...) -> GuestShape {
      GuestShape(
        memory: "32M", vcpus: 2, pattern: "rate-limited-write", backing: "private",
        more: ["--rate", "50", "--disk-buffer", "64"] + options)
    }

    /// A VM whose disk is slow.
    private func source(_ options: String...) throws -> TestVM {
      var shape = shape("--disk", disk.path)
      shape.more += options
      let source = try TestVM("source", shape, in: workspace)
      try source.waitUntilReady()
      try disk.slowDown(source.program)
      return source
    }

    /// Rounds that only their number ends; the first takes a second and more.
    private func migration(
      rounds: Int = 6, bandwidth: Int = 16 << 20, hasDiskAtDestination: Bool = false
    ) throws -> Migration {
      let source = try source("--track-writes")
      let migration = try Migration(
        adopting: source,
        shape: hasDiskAtDestination ? shape("--disk", disk.path) : shape(),
        Plan(
          mode: "hybrid", memory: .ranges,
          serverOptions: [
            "--dirty-tracking", "pagemap", "--downtime-target", "0", "--max-rounds", "\(rounds)",
            "--bandwidth", "\(bandwidth)",
          ]))
      migration.progressOperations = 50
      return migration
    }

    @Test(
      "moves in rounds, and no read is lost that was under way during a look",
      arguments: [false, true])
    func moves(hasDiskAtDestination: Bool) throws {
      let migration = try migration(hasDiskAtDestination: hasDiskAtDestination)
      try migration.start()
      try migration.expectCompletion()
      let rounds = try #require(migration.server?.report?.rounds)
      #expect(rounds.tracking == "pagemap")
      #expect(rounds.lookPauseNanoseconds ?? 0 > 0)
      try migration.server?.waitFor("the VM was paused for")
    }

    @Test("is not stopped for looks where nothing is read past the page cache")
    func withoutDisk() throws {
      let source = try TestVM("source", shape("--track-writes"), in: workspace)
      try source.waitUntilReady()
      let migration = try Migration(
        adopting: source, shape: shape(),
        Plan(
          mode: "hybrid", memory: .ranges,
          serverOptions: ["--dirty-tracking", "pagemap", "--max-rounds", "3"]))
      migration.progressOperations = 50
      try migration.start()
      try migration.expectCompletion()
      let rounds = try #require(migration.server?.report?.rounds)
      #expect(rounds.tracking == "pagemap" && rounds.lookPauseNanoseconds == nil)
    }

    @Test("is paused once its reads are complete, and a disk that hangs is named")
    func drains() throws {
      let source = try source()
      try disk.setReadsPerSecond(1)
      var pause = ControlRequest("pause")
      pause.timeoutMilliseconds = 0
      let reply = try source.call(pause)
      #expect(!reply.ok && reply.code == "timeout")
      try disk.setReadsPerSecond(0)
      try waitForState(of: source, ["paused"])
      #expect(try source.must("verify").findingCount == 0)
      try source.must("resume")
      try source.expectRunsAndVerifies()
      try source.quit()
    }

    @Test("runs on when its disk is too slow to be drained")
    func hangs() throws {
      let migration = try migration()
      // Four reads take four seconds: longer than a pause may.
      try disk.setReadsPerSecond(1)
      try migration.start()
      try migration.server?.expectEnd("aborted", exitCode: 11, saying: "could not be drained")
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      try disk.setReadsPerSecond(0)
      try migration.expectSourceRunsOn()
    }

    @Test(
      "runs on when page-server dies while it stands still for a look",
      arguments: ["worker", "send", "recover"])
    func killed(verb: String) throws {
      let migration = try migration(rounds: 1000, bandwidth: 64 << 20)
      // The pause lasts half a second: long enough to be met.
      try migration.start()
      try migration.server?.waitFor(state: "seeding")
      try disk.setReadsPerSecond(8)
      let server = try #require(migration.server)
      try holdInLook(migration)
      let mark = try mark(migration)
      #expect(mark.isSet)
      if verb == "worker" {
        try server.killWorker()
        try server.stop(false)
      } else {
        try server.kill()
        #expect(try server.program.end() == .killed(signal: SIGKILL))
        try migration.receiver?.expectEnd("aborted", exitCode: 11)
        #expect(try migration.source.status.state == "paused")
        if verb == "send" {
          try migration.startServer()
          try migration.server?.signal(SIGTERM)
        } else {
          try migration.recoverServer()
        }
      }
      try disk.setReadsPerSecond(0)
      try migration.server?.expectEnd("aborted", exitCode: 11)
      if verb == "worker" { try migration.receiver?.expectEnd("aborted", exitCode: 11) }
      #expect(!mark.isSet)
      try migration.expectSourceRunsOn()
    }

    /// A session that was given up says so before the look is over.
    @Test(
      "runs on when page-server dies in a look behind the word that it has given up",
      arguments: ["send", "recover"])
    func killedWhenGivenUp(verb: String) throws {
      let migration = try migration(rounds: 1000)
      // The first look takes the second that a pause may: time enough for the word.
      try disk.setReadsPerSecond(1)
      try migration.start()
      let server = try #require(migration.server)
      try waitForState(of: migration.source, ["pausing"])
      try server.signal(SIGTERM)
      try waitForAborted(migration)
      try server.stop(true)
      try #require(try migration.source.status.state != "running")
      let mark = try mark(migration)
      #expect(mark.isSet)
      try server.kill()
      #expect(try server.program.end() == .killed(signal: SIGKILL))
      try migration.receiver?.expectEnd("aborted", exitCode: 11)
      try disk.setReadsPerSecond(0)
      try waitForState(of: migration.source, ["paused"])
      if verb == "send" {
        try migration.startServer()
        try migration.server?.signal(SIGTERM)
      } else {
        try migration.recoverServer()
      }
      try migration.server?.expectEnd("aborted", exitCode: 11)
      #expect(!mark.isSet)
      try migration.expectSourceRunsOn()
    }

    @Test("is moved at once by an order that comes while it stands still for a look")
    func switched() throws {
      let migration = try migration(rounds: 1000, bandwidth: 64 << 20)
      try migration.start()
      try migration.server?.waitFor(state: "seeding")
      try holdInLook(migration)
      let server = try #require(migration.server)
      try server.stop(false)
      try migration.order("switch")
      let report = try server.expectEnd("completed", exitCode: 0).report
      // No resume has come behind the pause of the hand-over: the guest has done nothing since.
      let operations = try #require(report?.guest?.operationsBeforeFreeze)
      #expect(try migration.source.status.operations == operations)
      try migration.expectCompletion()
    }

    /// Has page-server stand still while the VM does so for a look.
    private func holdInLook(_ migration: Migration) throws {
      let server = try #require(migration.server)
      let deadline = Patience.deadline()
      while true {
        try waitForState(of: migration.source, ["pausing", "paused"])
        try server.stop(true)
        // Nobody resumes it now: either that was over before, or it lasts.
        let state = try migration.source.status.state
        if state != "running" { return try waitForState(of: migration.source, ["paused"]) }
        try server.stop(false)
        guard MonotonicClock.now() < deadline else {
          throw HarnessError(description: "the VM is not met in a look")
        }
      }
    }

    /// Waits for the word that the session was given up.
    private func waitForAborted(_ migration: Migration) throws {
      let deadline = Patience.deadline()
      let directory = try stateDirectory(migration)
      while true {
        let histories: [SessionHistory<SourceRecord>] = try SourceJournal.read(
          vm: try VMName(Migration.vmName), in: directory)
        if histories.last?.records.last?.isAborted == true { return }
        guard MonotonicClock.now() < deadline else {
          throw HarnessError(description: "the session is not given up")
        }
        try migration.source.program.pause()
      }
    }

    private func waitForState(of vm: TestVM, _ states: Set<String>) throws {
      let deadline = Patience.deadline()
      while let state = try vm.status.state, !states.contains(state) {
        guard MonotonicClock.now() < deadline else {
          throw HarnessError(description: "the VM is \(state), and not \(states)")
        }
        try vm.program.pause()
      }
    }

    /// The mark of a pause for a look in a migration's last session so far.
    private func mark(_ migration: Migration) throws -> PauseMark {
      let directory = try stateDirectory(migration)
      let histories: [SessionHistory<SourceRecord>] = try SourceJournal.read(
        vm: try VMName(Migration.vmName), in: directory)
      return PauseMark(ofLookIn: try #require(histories.last).session, in: directory)
    }

    private func stateDirectory(_ migration: Migration) throws -> StateDirectory {
      StateDirectory(
        statePath: migration.sourceStateDirectory,
        runPath: try StateDirectory.ofThisProcess().runPath)
    }
  }
}
