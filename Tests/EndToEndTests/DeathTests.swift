import Glibc
import ProgramHarness
import Reporting
import System
import Testing

extension EndToEnd {
  /// SIGKILL, as the OOM killer or an operator in a hurry sends it.
  @Suite("A process that is killed")
  struct DeathTests {
    @Test("the destination's VMM before GO: the source runs on")
    func destinationBeforeGo() throws {
      let migration = try Migration()
      try migration.startAndHoldInLoad()
      try migration.destination?.signal(SIGKILL)
      try migration.expectBothAborted(atDestination: "VMM")
    }

    @Test("the destination's VMM before the source is found: nothing was begun")
    func destinationBeforeSource() throws {
      let migration = try Migration()
      try migration.startReceiver(connectSeconds: 2)
      try migration.startDestination().signal(SIGKILL)
      _ = try migration.destination?.program.end()
      try migration.receiver?.expectEnd("refused", exitCode: 10)
      try migration.expectSourceRunsOn()
    }

    @Test("the destination's VMM after GO: both park and say that it is lost")
    func destinationAfterGo() throws {
      let migration = try Migration(Migration.slow, Plan(prefetch: "none"))
      try migration.startUntilRunning()
      try migration.destination?.signal(SIGKILL)
      _ = try migration.destination?.program.end()
      try migration.receiver?.expectEnd(
        "parked", exitCode: 12, saying: "died", destination: Phrase.killed)
      try migration.expectServerParked()
      try migration.cleanUpParked()
    }

    @Test("page-server before the hand-over: a new send lets the VM run on and moves it")
    func serverBeforeGo() throws {
      let migration = try Migration()
      try migration.startAndHoldInLoad()
      let first = try #require(migration.server)
      try first.kill()
      #expect(try first.program.end() == .killed(signal: SIGKILL))
      try migration.receiver?.expectEnd("aborted", exitCode: 11, destination: Phrase.killed)
      #expect(try migration.destination?.program.end() == .killed(signal: SIGKILL))
      // Frozen by the dead one; the next one's first act is to let it run.
      try migration.startServer()
      try migration.source.expectRunsAndVerifies()
      try migration.startReceiver()
      try migration.startDestination()
      try migration.expectCompletion()
    }

    @Test("postcopyd before the hand-over: the source runs on, and moves later")
    func receiverBeforeGo() throws {
      let migration = try Migration()
      try migration.startAndHoldInLoad()
      let first = try #require(migration.receiver)
      try first.kill()
      #expect(try first.program.end() == .killed(signal: SIGKILL))
      try migration.server?.expectEnd("aborted", exitCode: 11, source: Phrase.runs)
      try migration.source.expectRunsAndVerifies()
      // Its VMM has memory of a session that is over: it is of no use.
      try migration.destination?.signal(SIGKILL)
      _ = try migration.destination?.program.end()
      migration.forgetSession()
      try migration.start()
      try migration.expectCompletion()
    }

    @Test("page-server after GO: the destination waits as long as it was told, then parks")
    func serverAfterGo() throws {
      let migration = try Migration(
        Migration.slow, Plan(prefetch: "none", receiverOptions: ["--give-up-after", "1"]))
      try migration.startUntilRunning()
      try migration.server?.kill()
      _ = try migration.server?.program.end()
      try migration.receiver?.waitFor(event: "link-lost")
      try migration.receiver?.expectEnd(
        "parked", exitCode: 12, saying: "recover", source: Phrase.stopped,
        destination: Phrase.runs)
      try migration.expectGuestWaits()
      // What is parked is not lost.
      try migration.recoverServer(["--prefetch", "linear"])
      try migration.recoverReceiver(["--give-up-after", "600"])
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("postcopyd after GO: the source waits as long as it was told, then parks")
    func receiverAfterGo() throws {
      let migration = try Migration(
        Migration.slow, Plan(prefetch: "none", serverOptions: ["--give-up-after", "1"]))
      try migration.startUntilRunning()
      try migration.receiver?.kill()
      _ = try migration.receiver?.program.end()
      try migration.server?.waitFor(event: "link-lost")
      try migration.expectServerParked(saying: "recover")
      try migration.expectGuestWaits()
      try migration.recoverServer(["--give-up-after", "600", "--prefetch", "linear"])
      try migration.recoverReceiver()
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("the worker of either side after GO: the next one goes on", arguments: [true, false])
    func workerAfterGo(isAtSource: Bool) throws {
      let migration = try Migration(Migration.slow, Plan(prefetch: "none"))
      try migration.startUntilRunning()
      let engine = try #require(isAtSource ? migration.server : migration.receiver)
      try engine.killWorker()
      try engine.waitFor("an earlier process's session is taken up")
      try #require(migration.destination).waitForProgress(operations: 50)
      try migration.expectParksOnSecondSignal(of: engine, SIGTERM)
    }

    @Test("recover of a session that has ended says so, whatever else is said beside it")
    func recoverTooLate() throws {
      let migration = try Migration(GuestShape(), Plan())
      try migration.start()
      try migration.expectCompletion()
      for options in [[], ["--give-up-after", "600"]] {
        try migration.recoverReceiver(options)
        let end = try #require(migration.receiver).end()
        #expect(end.ending == .exited(code: 10))
        #expect(end.message.contains("has no session to go on with"))
      }
    }

    @Test("the source's VMM whose memory is read by pid: before the destination comes")
    func sourceProcess() throws {
      let migration = try Migration(GuestShape(backing: "private"), Plan(memory: .ranges))
      let server = try migration.startServer()
      try migration.source.signal(SIGKILL)
      _ = try migration.source.program.end()
      try migration.startReceiver()
      try migration.startDestination()
      // There is no VM any more, and nobody may say that it runs.
      let end = try server.end()
      #expect(end.ending != .exited(code: 0))
      #expect(end.report?.sourceState != Phrase.runs, "\(end.message)")
      #expect(end.message.hasPrefix("VM e2e: ") && end.message.contains("next:"))
      let received = try #require(migration.receiver).end()
      #expect(received.ending != .exited(code: 0) && received.message.hasPrefix("VM e2e: "))
    }

    @Test("a VM that was handed over is not sent a second time")
    func secondSend() throws {
      let migration = try Migration()
      try migration.start()
      _ = try migration.receiver?.expectEnd("completed", exitCode: 0)
      _ = try migration.server?.expectEnd("completed", exitCode: 0)
      try migration.startServer(waits: false)
        .expectEnd("refused", exitCode: 10, saying: "has moved away")
      try migration.expectMoved()
      try migration.expectNothingLeft()
    }
  }
}
