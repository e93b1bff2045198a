import Glibc
import GuestKit
import LinkFaultKit
import ProgramHarness
import Reporting
import Testing

extension FaultInjection {
  /// `--pause-after`: the VMM is asked to pause the guest while its source cannot be reached, and
  /// whatever it answers, recovery goes its way.
  @Suite("Cases with a guest that is paused for a lost link")
  struct PauseCases {
    private static func plan(_ options: String...) -> Plan {
      Plan(link: .loopback, receiverOptions: ["--pause-after"] + options)
    }

    @Test("silent drop: paused, and resumed with the link, twice")
    func silentDrop() throws {
      let migration = try Migration.withOpenWindow(Migration.needy, Self.plan("1"))
      for count in 1...2 {
        try migration.relayed.order(FaultOrder(.drop))
        try migration.expectLinkLost(count: count)
        let paused = try migration.expectPaused(count: count)
        #expect(paused.reason == "the link is lost")
        try migration.relayed.order(FaultOrder(.clear))
        try migration.holdBulkDown()
        let resumed = try migration.expectResumed(count: count)
        #expect(resumed.reason == "the link is there again")
        #expect(resumed.pausedNanoseconds ?? 0 > 0)
        try migration.expectLinkRestored(count: count)
      }
      try migration.closeWindow(lostCount: 2)
      try migration.expectPausesToldInReport()
    }

    @Test("an idle guest, at once: it stands still to the last vCPU")
    func idleGuest() throws {
      let idle = GuestShape(
        memory: "64M", vcpus: 2, pattern: "rate-limited-write", more: ["--rate", "2"])
      var plan = Self.plan("0")
      plan.operationsBefore = 2
      let migration = try Migration.withOpenWindow(idle, plan)
      migration.progressOperations = 4
      try migration.relayed.order(FaultOrder(.refuse))
      try migration.relayed.order(FaultOrder(.reset))
      let paused = try migration.expectPaused()
      // No page comes, so that a vCPU which waits for one goes on waiting.
      let state = try #require(migration.destination).status.state
      #expect(paused.isComplete == (state == "paused"))
      try migration.relayed.order(FaultOrder(.listen))
      try migration.expectResumed()
      try migration.closeWindow()
      try migration.expectPausesToldInReport()
    }

    @Test("a loss that is shorter pauses nothing")
    func shortLoss() throws {
      let migration = try Migration.withOpenWindow(Migration.needy, Self.plan("600"))
      try migration.relayed.order(FaultOrder(.reset))
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
      let receiver = try #require(migration.receiver)
      #expect(receiver.count(ofEvent: "guest-paused") == 0)
      #expect(receiver.count(ofEvent: "guest-resumed") == 0)
    }

    @Test("parked: it stays paused, and recover lets it run on with the link")
    func parked() throws {
      let migration = try Migration.withOpenWindow(
        Migration.needy, Self.plan("1", "--give-up-after", "3"))
      try migration.relayed.order(FaultOrder(.drop))
      try migration.expectPaused()
      let end = try #require(migration.receiver).expectEnd(
        "parked", exitCode: 12, saying: "recover", destination: Phrase.stopped)
      #expect(end.report?.guestPauses?.isPaused == true)
      try migration.expectStandsPaused()
      // The link is lost still, so that the guest stands still, however long it may now.
      try migration.recoverReceiver(["--give-up-after", "600", "--pause-after", "500"])
      try migration.receiver?.waitFor("an earlier process's session is taken up")
      try migration.expectStandsPaused()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectResumed()
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("SIGKILL of postcopyd's worker: the next one knows that the guest is paused")
    func worker() throws {
      let migration = try Migration.withOpenWindow(Migration.needy, Self.plan("1"))
      try migration.relayed.order(FaultOrder(.drop))
      try migration.expectPaused()
      try #require(migration.receiver).killWorker()
      try migration.receiver?.waitFor("an earlier process's session is taken up")
      try migration.expectStandsPaused()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectResumed()
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("a VMM that does not answer: recovery does not wait for it")
    func silentVMM() throws {
      let migration = try Migration.withOpenWindow(Migration.needy, Self.plan("0"))
      try migration.destination?.signal(SIGSTOP)
      try migration.relayed.order(FaultOrder(.drop))
      try migration.expectLinkLost()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.holdBulkDown()
      try migration.receiver?.waitFor(event: "link-restored")
      try migration.receiver?.waitFor("is not paused while the link is lost")
      try migration.destination?.signal(SIGCONT)
      try migration.closeWindow()
      #expect(migration.receiver?.count(ofEvent: "guest-paused") == 0)
    }
  }
}

extension Migration {
  /// It is told that the guest is paused, and its VMM says so.
  @discardableResult
  fileprivate func expectPaused(count: Int = 1) throws -> EventLine {
    let event = try #require(receiver).waitFor(event: "guest-paused", count: count)
    try expectStandsPaused()
    return event
  }

  /// The VMM keeps the guest paused; one whose vCPUs wait for pages is still about to be.
  fileprivate func expectStandsPaused() throws {
    #expect(["paused", "pausing"].contains(try #require(destination).status.state))
  }

  /// It is told that the guest runs on, and it works.
  @discardableResult
  fileprivate func expectResumed(count: Int = 1) throws -> EventLine {
    let event = try #require(receiver).waitFor(event: "guest-resumed", count: count)
    try destination?.waitForProgress(operations: min(100, progressOperations))
    #expect(try destination?.status.state == "running")
    return event
  }

  /// The report counts the pauses that were told, none of which lasts.
  fileprivate func expectPausesToldInReport() throws {
    let receiver = try #require(receiver)
    let pauses = try #require(receiver.report?.guestPauses)
    #expect(pauses.count == UInt64(receiver.count(ofEvent: "guest-paused")))
    #expect(pauses.count > 0 && pauses.totalNanoseconds > 0 && !pauses.isPaused)
    #expect(receiver.count(ofEvent: "guest-resumed") == receiver.count(ofEvent: "guest-paused"))
  }
}
