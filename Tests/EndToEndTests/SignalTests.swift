import Glibc
import ProgramHarness
import Testing

extension EndToEnd {
  /// SIGHUP never ends a session. SIGINT and SIGTERM end it before the hand-over, and the source
  /// runs on; after it the first is refused, the second parks.
  @Suite("A signal")
  struct SignalTests {
    private func hangUp(_ engine: Engine) throws {
      try engine.signal(SIGHUP)
      try engine.waitFor("SIGHUP ends nothing")
    }

    @Test("to a postcopyd to which no VMM has attached", arguments: [SIGINT, SIGTERM])
    func beforeAttach(signal: Int32) throws {
      let migration = try Migration()
      let receiver = try migration.startReceiver()
      try hangUp(receiver)
      try receiver.signal(signal)
      try receiver.expectEnd("refused", exitCode: 10, saying: "operator")
      try migration.expectSourceRunsOn()
    }

    @Test("to a postcopyd that finds no source", arguments: [SIGINT, SIGTERM])
    func beforeSource(signal: Int32) throws {
      let migration = try Migration()
      let receiver = try migration.startReceiver()
      try migration.startDestination()
      try receiver.waitFor("does not answer")
      try hangUp(receiver)
      try receiver.signal(signal)
      try receiver.expectEnd("refused", exitCode: 10, saying: "operator")
      try migration.expectSourceRunsOn()
    }

    @Test("to a page-server to which nobody has come", arguments: [SIGINT, SIGTERM])
    func beforeDestination(signal: Int32) throws {
      let migration = try Migration()
      let server = try migration.startServer()
      try hangUp(server)
      try server.signal(signal)
      try server.expectEnd("aborted", exitCode: 11, saying: "operator", source: Phrase.runs)
      try migration.expectSourceRunsOn()
    }

    @Test(
      "to either side while the source VM is being stopped", arguments: [SIGINT, SIGTERM],
      [true, false])
    func whilePausing(signal: Int32, isAtSource: Bool) throws {
      let migration = try Migration()
      let server = try migration.startServer()
      // The VMM answers no more: the pause takes as long as we like.
      try migration.source.signal(SIGSTOP)
      let receiver = try migration.startReceiver()
      try migration.startDestination()
      try server.waitFor(state: "pausing")
      let engine = isAtSource ? server : receiver
      try hangUp(engine)
      try engine.signal(signal)
      try server.waitFor(state: "resuming")
      try migration.source.signal(SIGCONT)
      try migration.expectBothAborted(saying: "operator", atDestination: "operator")
    }

    @Test(
      "to either side while device state is loaded", arguments: [SIGINT, SIGTERM], [true, false])
    func whileLoading(signal: Int32, isAtSource: Bool) throws {
      let migration = try Migration()
      try migration.startAndHoldInLoad()
      let engine = try #require(isAtSource ? migration.server : migration.receiver)
      try hangUp(engine)
      try engine.signal(signal)
      try migration.expectBothAborted(saying: "operator", atDestination: "operator")
    }

    @Test("to either side after GO", arguments: [SIGINT, SIGTERM], [true, false])
    func afterGo(signal: Int32, isAtSource: Bool) throws {
      let migration = try Migration(Migration.slow, Plan(prefetch: "none"))
      try migration.startUntilRunning()
      let engine = try #require(isAtSource ? migration.server : migration.receiver)
      try migration.expectParksOnSecondSignal(of: engine, signal)
    }
  }
}
