import Glibc
import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import Testing

extension FaultInjection {
  /// Rounds of seeds first, then a short post-copy. Until the freeze the VM runs at the source,
  /// whatever happens.
  @Suite("Cases with rounds")
  struct HybridCases {
    /// A guest that writes on and on, but less than a link carries: in the longest time that a test
    /// may take, on the slowest machine, not an eighth of its pages.
    private static func writer(_ backing: String = "memfd") -> GuestShape {
      GuestShape(
        memory: "64M", vcpus: 2, pattern: "rate-limited-write", backing: backing,
        more: ["--rate", "50"])
    }

    /// Rounds that only their number ends, or a guest that has nothing left to send.
    private static let threeRounds = ["--downtime-target", "0", "--max-rounds", "3"]

    /// A migration with rounds over a relay on loopback.
    private static func migration(
      of guest: GuestShape = writer(), mode: String = "hybrid", memory: Plan.Memory = .file,
      bulkConnections: Int = 1, options: [String] = threeRounds
    ) throws -> Migration {
      let migration = try Migration(
        guest,
        Plan(
          mode: mode, memory: memory, link: .loopback, bulkConnections: bulkConnections,
          hasRelay: true, serverOptions: options))
      // Half a second of the writer's work.
      migration.progressOperations = 50
      return migration
    }

    @Test(
      "case 3: hybrid, and what was dirtied again is discarded",
      arguments: [("memfd", Plan.Memory.file), ("private", .ranges)], [1, 3])
    func redirtied(backing: (String, Plan.Memory), bulkConnections: Int) throws {
      // It writes all the time, and one round is all there is: much of it is stale at its end.
      let migration = try Self.migration(
        of: GuestShape(memory: "64M", vcpus: 2, pattern: "random-write", backing: backing.0),
        memory: backing.1, bulkConnections: bulkConnections,
        options: ["--max-rounds", "1", "--downtime-target", "0"])
      try migration.start()
      try migration.expectCompletion()
      let report = try #require(migration.server?.end().report)
      #expect(report.mode == "hybrid" && report.pages.seeded ?? 0 == report.pages.total)
      #expect(report.pages.data > 0)
    }

    @Test("case 3: hybrid in several rounds", arguments: [1, 3])
    func severalRounds(bulkConnections: Int) throws {
      let migration = try Self.migration(bulkConnections: bulkConnections)
      try migration.start()
      try migration.expectCompletion()
      try expectSeeded(migration)
    }

    @Test(
      "case 3: hybrid in huge pages, of which one write makes 512 small ones stale",
      .needsHugePages)
    func hugePages() throws {
      let migration = try Self.migration(
        of: GuestShape(
          memory: "32M", vcpus: 2, pattern: "rate-limited-write", pageSize: "2M",
          more: ["--rate", "50"]))
      try migration.start()
      try migration.expectCompletion()
    }

    @Test("case 3: hybrid, while the guest gives pages back that were seeded")
    func givenBack() throws {
      let migration = try Self.migration(
        of: GuestShape(
          memory: "64M", vcpus: 2, backing: "private",
          more: ["--remove-every", "20", "--remove-by", "dontneed"]), memory: .ranges)
      try migration.start()
      try migration.expectCompletion()
    }

    /// What fits is sent while the VM stands still: it waits for no page at the destination.
    @Test(
      "pre-copy: what was dirtied again is there before the VM runs",
      arguments: [("memfd", Plan.Memory.file), ("private", .ranges)], [1, 3])
    func preCopy(backing: (String, Plan.Memory), bulkConnections: Int) throws {
      // An hour fits everything: the first round is the last, and much of it is stale.
      let migration = try Self.migration(
        of: GuestShape(memory: "64M", vcpus: 2, pattern: "random-write", backing: backing.0),
        mode: "pre-copy", memory: backing.1, bulkConnections: bulkConnections,
        options: ["--downtime-target", "3600000"])
      try migration.start()
      try migration.expectCompletion()
      let report = try #require(migration.server?.end().report)
      #expect(report.mode == "pre-copy" && report.pages.seeded ?? 0 == report.pages.total)
      #expect(report.pages.data > 0)
      try migration.server?.waitFor("what is left fits the downtime target")
    }

    @Test("pre-copy that does not come to fit: the VM stays, or is switched over, as told")
    func preCopyAtItsLimit() throws {
      let limit = ["--downtime-target", "0", "--max-rounds", "2"]
      let staying = try Self.migration(
        of: GuestShape(memory: "64M", vcpus: 2, pattern: "random-write"), mode: "pre-copy",
        options: limit)
      try staying.start()
      try expectAborted(staying, saying: "could not be moved within its limits")
      let switching = try Self.migration(
        mode: "pre-copy", options: limit + ["--at-limit", "switch"])
      try switching.start()
      try switching.expectCompletion()
      try expectSeeded(switching, mode: "pre-copy")
    }

    @Test(
      "a round in which the operator says switch is the last", arguments: ["hybrid", "pre-copy"])
    func told(mode: String) throws {
      let migration = try inFirstRound(mode: mode)
      try migration.order("switch")
      try migration.server?.waitFor("switching: the operator says so")
      try migration.closeWindow(lostCount: 0)
    }

    @Test("pre-copy: a link that is lost while the VM stands still leaves it at the source")
    func lostWhenFrozen() throws {
      // Little memory, all of it written again in the first round: what is left takes as long as
      // that on a link that is held down.
      let migration = try Self.migration(
        of: GuestShape(memory: "4M", vcpus: 2, pattern: "random-write"), mode: "pre-copy",
        options: ["--downtime-target", "3600000"])
      try migration.holdBulkDown(to: 500_000)
      try migration.start()
      try migration.receiver?.waitFor(state: "filling")
      try migration.relayed.order(FaultOrder(.cut))
      try expectAborted(migration, saying: "")
    }

    /// All pages were sent while the VM ran at the source, and few after the freeze.
    private func expectSeeded(_ migration: Migration, mode: String = "hybrid") throws {
      let server = try #require(migration.server)
      let report = try #require(try server.end().report)
      #expect(report.mode == mode && report.pages.seeded ?? 0 >= report.pages.total)
      #expect(
        report.pages.data < report.pages.total / 8,
        "\(report.pages.data) pages were sent after the freeze:\n\(server.program.transcript)")
    }

    @Test(
      "case 3: a link that is lost in every round, and the rounds go on over the next",
      arguments: [
        FaultOrder(.cut), FaultOrder(.reset), FaultOrder(.halfOpen, .toClient),
        FaultOrder(.cut, to: .bulk),
      ], [1, 2])
    func lostInRounds(fault: FaultOrder, bulkConnections: Int) throws {
      let migration = try Self.migration(bulkConnections: bulkConnections)
      // The round lasts longer than the test needs.
      try migration.holdBulkDown()
      try migration.start()
      for count in 1...3 {
        // Bulk connections follow the urgent one: a fault of theirs would strike none before.
        try migration.server?.waitFor(state: "seeding", count: count)
        try migration.relayed.order(fault)
        try migration.expectLinkLost(count: count)
        try migration.receiver?.waitFor(event: "link-restored", count: count)
        try migration.server?.waitFor(event: "link-restored", count: count)
        #expect(try migration.source.status.state == "running")
      }
      try migration.closeWindow(lostCount: 3)
      try expectSeeded(migration)
    }

    @Test("case 3: silence in a round is noticed, and the rounds go on")
    func silentInRound() throws {
      let migration = try inFirstRound()
      try migration.relayed.order(FaultOrder(.drop))
      try migration.expectLinkLost()
      #expect(try migration.source.status.state == "running")
      try migration.closeWindow()
    }

    @Test("case 3: a link that is slow to answer makes its bulk connections behind READY")
    func slowLink() throws {
      let migration = try inFirstRound()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.relayed.order(FaultOrder(.delay, value: 100))
      try migration.relayed.order(FaultOrder(.cut))
      try migration.expectLinkLost()
      try migration.server?.waitFor(event: "link-restored")
      try migration.server?.waitFor("switching")
      try migration.closeWindow()
    }

    @Test("case 12: cancelled in a round, the source runs on", arguments: [true, false])
    func cancelled(isAtSource: Bool) throws {
      let migration = try inFirstRound()
      let engine = try #require(isAtSource ? migration.server : migration.receiver)
      try engine.signal(SIGINT)
      try expectAborted(migration, saying: "operator")
    }

    @Test("case 13: the destination's VMM dies in a round, the source runs on")
    func vmmDies() throws {
      let migration = try inFirstRound()
      try migration.destination?.signal(SIGKILL)
      try expectAborted(migration, saying: "")
    }

    @Test("case 20: SIGKILL of page-server's worker in a round: the VM runs on unwatched")
    func serverWorker() throws {
      let migration = try inFirstRound()
      try #require(migration.server).killWorker()
      try expectAborted(migration, saying: "")
    }

    @Test("case 21: SIGKILL of postcopyd's worker in a round: the VM runs on at the source")
    func receiverWorker() throws {
      let migration = try inFirstRound()
      try #require(migration.receiver).killWorker()
      try expectAborted(migration, saying: "")
    }

    /// Stands in a round that takes a minute.
    private func inFirstRound(
      mode: String = "hybrid", options: [String] = threeRounds
    ) throws -> Migration {
      let migration = try Self.migration(mode: mode, options: options)
      try migration.holdBulkDown()
      try migration.start()
      try migration.server?.waitFor(state: "seeding")
      return migration
    }

    /// The VM runs at the source, and nobody watches what it writes.
    private func expectAborted(_ migration: Migration, saying words: String) throws {
      try #require(migration.server).expectEnd("aborted", exitCode: 11, saying: words)
      try #require(migration.receiver).expectEnd("aborted", exitCode: 11)
      let log = try migration.source.call(ControlRequest("dirty-log-fetch"))
      #expect(!log.ok && log.code == "bad-state")
      try migration.expectSourceRunsOn()
    }
  }
}
