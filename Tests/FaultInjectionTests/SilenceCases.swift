import Glibc
import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import System
import Testing

extension FaultInjection {
  /// Nobody says that the link is lost: only heartbeats can.
  @Suite("Cases with a link that is lost without a word")
  struct SilenceCases {
    /// One side has noticed by its heartbeats, the other one too or by what the first one did then;
    /// none had to wait for TCP to give up.
    private func expectNoticed(_ migration: Migration) throws {
      let engines = [try #require(migration.receiver), try #require(migration.server)]
      let reasons = try engines.map { try $0.waitFor(event: "link-lost").reason ?? "" }
      #expect(reasons.contains { $0.contains("nothing was heard of the peer") }, "\(reasons)")
      #expect(!reasons.contains { $0.contains("no answer in time") }, "\(reasons)")
    }

    @Test(
      "case 11: a silent drop is found by the heartbeats, in either direction or both",
      arguments: [
        FaultOrder(.drop), FaultOrder(.drop, to: .urgent), FaultOrder(.swallow, .toServer),
        FaultOrder(.swallow, .toClient), FaultOrder(.stall, to: .urgent, .toServer),
        FaultOrder(.stall, to: .urgent, .toClient),
      ])
    func silentDrop(fault: FaultOrder) throws {
      let migration = try Migration.withOpenWindow()
      try migration.relayed.order(fault)
      try expectNoticed(migration)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.holdBulkDown()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test("case 11: the budget is the operator's", arguments: [200, 3000])
    func budget(milliseconds: Int) throws {
      var plan = Plan(link: .loopback)
      plan.serverOptions = ["--heartbeat-budget", "\(milliseconds)"]
      plan.receiverOptions = plan.serverOptions
      let migration = try Migration.withOpenWindow(Migration.needy, plan)
      try migration.relayed.order(FaultOrder(.drop))
      try expectNoticed(migration)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectLinkRestored()
      try migration.closeWindow(lostCount: 1)
    }

    @Test("case 11: a budget below the round trip: the link is made, lost and made again")
    func budgetBelowRoundTrip() throws {
      var plan = Plan(link: .loopback, hasRelay: true)
      plan.serverOptions = ["--heartbeat-budget", "200", "--bandwidth", "2000000"]
      plan.receiverOptions = ["--heartbeat-budget", "200"]
      let migration = try Migration(Migration.needy, plan)
      // 300 ms there and back: while the bulk connection is made, urgent is silent for longer than
      // the budget.
      try migration.relayed.order(FaultOrder(.delay, value: 150))
      try migration.startUntilRunning()
      migration.progressOperations = 20
      try migration.relayed.order(FaultOrder(.cut))
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test(
      "case 11: a peer whose process stands still is noticed, and taken again",
      arguments: [true, false])
    func stoppedPeer(isSource: Bool) throws {
      let migration = try Migration.withOpenWindow()
      let stopped = try #require(isSource ? migration.server : migration.receiver)
      let other = try #require(isSource ? migration.receiver : migration.server)
      try stopped.stop(true)
      try other.waitFor(event: "link-lost")
      try stopped.stop(false)
      try other.waitFor(event: "link-restored")
      try migration.destination?.waitForProgress(operations: 100)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion()
    }

    @Test(
      "case 16: an idle guest without faults notices as fast, and completes",
      arguments: [FaultOrder(.drop), FaultOrder(.swallow, .toClient), FaultOrder(.cut)])
    func idleGuest(fault: FaultOrder) throws {
      let idle = GuestShape(
        memory: "64M", pattern: "rate-limited-read", more: ["--operations", "50"])
      var plan = Plan(link: .loopback)
      plan.operationsBefore = 0
      let migration = try Migration.withOpenWindow(idle, plan)
      // It has stopped working for good: a vCPU that halts needs no page.
      migration.progressOperations = 0
      try migration.relayed.order(fault)
      if fault.action == .cut {
        try migration.expectLinkLost()
      } else {
        try expectNoticed(migration)
      }
      try migration.relayed.order(FaultOrder(.clear))
      try migration.holdBulkDown()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    /// The network itself, in namespaces of the test's own.
    private enum Network: String, CaseIterable {
      case linkDown, bothWays, toSource, toDestination

      func fail(_ namespaces: NamespacePair) throws {
        switch self {
        case .linkDown: try namespaces.setLink(isUp: false)
        case .bothWays: try namespaces.drop(incoming: true, outgoing: true)
        case .toSource: try namespaces.drop(incoming: true, outgoing: false)
        case .toDestination: try namespaces.drop(incoming: false, outgoing: true)
        }
      }

      func heal(_ namespaces: NamespacePair) throws {
        if self == .linkDown {
          try namespaces.setLink(isUp: true)
        } else {
          try namespaces.heal()
        }
      }
    }

    @Test(
      "case 11: a network that loses packets without a word, or whose cable is pulled",
      .enabled(if: NamespacePair.isAvailable, "needs root, iproute2 and nftables"),
      arguments: ["linkDown", "bothWays", "toSource", "toDestination"])
    func network(kind: String) throws {
      let network = try #require(Network(rawValue: kind))
      let namespaces = try NamespacePair()
      // No relay: page-server itself holds bulk down, so that the window stays open.
      let migration = try Migration(
        Migration.needy,
        Plan(
          link: .loopback, security: .insecure,
          serverOptions: ["--bandwidth", "2000000"]))
      migration.join(over: namespaces)
      try migration.startUntilRunning()
      try network.fail(namespaces)
      try expectNoticed(migration)
      try migration.expectGuestStandsStill()
      try network.heal(namespaces)
      try migration.expectLinkRestored()
      try migration.expectCompletion()
    }
  }
}
