import Glibc
import GuestKit
import LinkFaultKit
import ProgramHarness
import Reporting
import System
import Testing

extension FaultInjection {
  /// Seeds that go into the memory itself: what a process that died has left there is stale soon.
  @Suite("Cases with seeds in place", .needsSmallSharedPages)
  struct InPlaceCases {
    @Test("case 3: a link that is lost in each of two rounds", arguments: [1, 2])
    func lostInRounds(bulkConnections: Int) throws {
      let migration = try inFirstRound(bulkConnections: bulkConnections)
      for count in 1...2 {
        try migration.relayed.order(FaultOrder(.cut))
        try migration.expectLinkLost(count: count)
        try migration.server?.waitFor(event: "link-restored", count: count)
        try migration.receiver?.waitFor(event: "link-restored", count: count)
        try migration.server?.waitFor(state: "seeding", count: count + 1)
      }
      try migration.closeWindow(lostCount: 2)
      #expect(migration.receiver?.report?.seedsInPlace == true)
    }

    @Test(
      "case 21: SIGKILL of postcopyd in a round: its VM never runs, and the next attempt succeeds",
      arguments: [true, false])
    func receiver(isWorkerAlone: Bool) throws {
      let migration = try inFirstRound(bulkConnections: 2)
      let first = try #require(migration.receiver)
      if isWorkerAlone {
        try first.killWorker()
      } else {
        try first.kill()
        #expect(try first.program.end() == .killed(signal: SIGKILL))
        try migration.recoverReceiver()
      }
      try migration.receiver?.expectEnd("aborted", exitCode: 11, destination: Phrase.killed)
      try migration.server?.expectEnd("aborted", exitCode: 11, source: Phrase.runs)
      #expect(try migration.destination?.program.end() == .killed(signal: SIGKILL))
      try migration.source.expectRunsAndVerifies()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.start()
      try migration.expectCompletion()
      #expect(migration.receiver?.report?.seedsInPlace == true)
    }

    /// Stands in a round that takes a minute, of which something has come.
    private func inFirstRound(bulkConnections: Int) throws -> Migration {
      let migration = try Migration(
        GuestShape(
          memory: "64M", vcpus: 2, pattern: "rate-limited-write", more: ["--rate", "50"]),
        Plan(
          mode: "hybrid", link: .loopback, dialect: "two-descriptors",
          bulkConnections: bulkConnections, hasRelay: true,
          serverOptions: ["--downtime-target", "0", "--max-rounds", "3"]))
      migration.progressOperations = 50
      try migration.holdBulkDown()
      try migration.start()
      try migration.server?.waitFor(state: "seeding")
      let destination = try #require(migration.destination)
      let path = try #require(try destination.status.memoryPath)
      let memory = try OwnedDescriptor.open(path, flags: O_RDONLY)
      let deadline = Patience.deadline()
      while try memory.nextData(from: 0) == nil {
        guard MonotonicClock.now() < deadline else {
          throw HarnessError(description: "no seed has come into the memory")
        }
        try destination.program.pause()
      }
      return migration
    }
  }
}
