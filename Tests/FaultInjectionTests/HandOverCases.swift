import Glibc
import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import Testing

extension FaultInjection {
  /// Nothing has been handed over: whatever happens, the source runs on.
  @Suite("Cases before the hand-over")
  struct HandOverCases {
    @Test(
      "case 12: cancelled before the switch, the source runs on", arguments: [true, false],
      [Plan.Link.unix, .loopback])
    func cancelled(isAtSource: Bool, link: Plan.Link) throws {
      let migration = try Migration(GuestShape(), Plan(link: link, hasRelay: true))
      try migration.startAndHoldInLoad()
      let engine = try #require(isAtSource ? migration.server : migration.receiver)
      try engine.signal(SIGINT)
      try migration.expectBothAborted(saying: "operator", atDestination: "operator")
    }

    @Test("case 12: the link is lost before the switch, the source runs on, and moves later")
    func lostBefore() throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, hasRelay: true))
      try migration.startAndHoldInLoad()
      try migration.relayed.order(FaultOrder(.cut))
      try expectEnded(migration)
      try expectMovesLater(migration)
    }

    @Test("case 12: silence before the switch is noticed too, and the source runs on")
    func silentBefore() throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, hasRelay: true))
      try migration.startAndHoldInLoad()
      try migration.relayed.order(FaultOrder(.drop))
      try expectEnded(migration)
      try migration.expectSourceRunsOn()
    }

    @Test("case 13: the destination's VMM dies while it loads device state")
    func diesInLoad() throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, hasRelay: true))
      try migration.startAndHoldInLoad()
      try migration.destination?.signal(SIGKILL)
      try migration.expectBothAborted(atDestination: "VMM")
    }

    @Test("case 13: the destination's VMM refuses the device state, and the right one is taken")
    func refusesLoad() throws {
      let shape = GuestShape(vcpus: 2)
      let migration = try Migration(shape, Plan(link: .loopback, hasRelay: true))
      try migration.startReceiver()
      var other = shape
      other.vcpus = 1
      try migration.startDestination(other)
      try migration.startServer()
      try expectEnded(migration)
      try expectMovesLater(migration)
    }

    @Test("case 14: another VM is refused before anything moves, and the right one taken")
    func wrongVM() throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, hasRelay: true))
      let server = try migration.startServer()
      try migration.startReceiver(vm: "other")
      try migration.startDestination()
      try migration.receiver?.expectEnd(
        "refused", exitCode: 10, saying: "other", vm: "other", destination: Phrase.untouched)
      try expectUntouched(migration, server)
    }

    @Test("case 14: another size is refused before anything moves", arguments: ["32M", "14M"])
    func wrongSize(memory: String) throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, hasRelay: true))
      let server = try migration.startServer()
      try migration.startReceiver()
      try migration.startDestination(GuestShape(memory: memory))
      try migration.receiver?.expectEnd(
        "refused", exitCode: 10, saying: "bytes", destination: Phrase.untouched)
      try expectUntouched(migration, server)
    }

    @Test(
      "case 14: another page size is refused before anything moves",
      .needsHugePages)
    func wrongPageSize() throws {
      let migration = try Migration(GuestShape(), Plan(link: .loopback, hasRelay: true))
      let server = try migration.startServer()
      try migration.startReceiver()
      try migration.startDestination(GuestShape(pageSize: "2M"))
      try migration.receiver?.expectEnd(
        "refused", exitCode: 10, saying: "page size", destination: Phrase.untouched)
      try expectUntouched(migration, server)
    }

    /// Both sides have given up, and the VM that would have taken over is gone.
    private func expectEnded(_ migration: Migration) throws {
      try migration.server?.expectEnd("aborted", exitCode: 11, source: Phrase.runs)
      try migration.receiver?.expectEnd("aborted", exitCode: 11, destination: Phrase.killed)
      _ = try migration.destination?.program.end()
    }

    private func expectMovesLater(_ migration: Migration) throws {
      try migration.source.expectRunsAndVerifies()
      try migration.start()
      try migration.expectCompletion()
    }

    /// The source has told why, its VM has not stood still, and the right destination is served.
    private func expectUntouched(_ migration: Migration, _ server: Engine) throws {
      try server.waitFor("was refused")
      #expect(!server.texts.contains("state: pausing"))
      try migration.source.waitForProgress()
      try migration.destination?.quit()
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }
  }
}
