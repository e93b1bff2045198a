import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import Testing
import Wire

extension FaultInjection {
  /// The link is lost while the VM runs at the destination and needs its pages: both sides go on by
  /// themselves, and nobody is asked.
  @Suite("Cases with a lost link")
  struct RecoveryCases {
    @Test(
      "case 5: recovery after a clean close, a reset and a half-open link",
      arguments: [
        FaultOrder(.cut), FaultOrder(.reset), FaultOrder(.halfOpen, .toServer),
        FaultOrder(.halfOpen, .toClient), FaultOrder(.cut, to: .bulk),
        FaultOrder(.reset, to: .urgent),
      ], [Plan.Link.loopback, .unix])
    func recovers(fault: FaultOrder, link: Plan.Link) throws {
      let migration = try Migration.withOpenWindow(Migration.needy, Plan(link: link))
      try migration.relayed.order(fault)
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test("case 5: recovery with four bulk connections, whichever of them is lost")
    func severalBulk() throws {
      let migration = try Migration.withOpenWindow(
        Migration.needy, Plan(link: .loopback, bulkConnections: 4))
      let lastBulk = try #require(migration.relayed.links.last { $0.role == "bulk" })
      try migration.relayed.order(FaultOrder(.reset, to: .number(lastBulk.number)))
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test("case 6: double failure in the handshake, onto an open but wrong socket")
    func wrongSocket() throws {
      let migration = try Migration.withOpenWindow()
      let next = try migration.relayed.nextLinkNumber
      try migration.relayed.order(FaultOrder(.silent))
      try migration.relayed.order(FaultOrder(.cut))
      try migration.expectLinkLost()
      // Twice somebody takes the connection and says nothing.
      try migration.relayed.waitFor("opened") { $0.link == next + 1 }
      #expect(try migration.source.status.state != "running")
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test(
      "case 6: double failure amid the handshake's frames",
      arguments: [
        (ConnectionRole.urgent, FaultDirection.toServer, 1), (.urgent, .toServer, 20),
        (.urgent, .toServer, 60), (.urgent, .toClient, 1), (.urgent, .toClient, 20),
        (.urgent, .toClient, 60), (.bulk, .toServer, 1), (.bulk, .toClient, 20),
      ])
    func brokenHandshake(at: (role: ConnectionRole, way: FaultDirection, byteCount: Int)) throws {
      let migration = try Migration.withOpenWindow()
      // Urgent comes back first.
      let next = try migration.relayed.nextLinkNumber + (at.role == .urgent ? 0 : 1)
      // In its hello, or in its welcome.
      try migration.relayed.order(
        FaultOrder(.cut, to: .number(next), at.way, afterByteCount: UInt64(at.byteCount)))
      try migration.relayed.order(FaultOrder(.reset, to: .urgent))
      try migration.expectLinkLost()
      try migration.relayed.waitFor("fault") { $0.target == "\(next)" }
      try migration.expectLinkRestored(count: at.role == .urgent ? 1 : 2)
      try migration.closeWindow(lostCount: at.role == .urgent ? 1 : 2)
    }

    @Test("case 7: double failure on reconnect, nobody listens and then the first ones break")
    func deadSocket() throws {
      let migration = try Migration.withOpenWindow()
      let next = try migration.relayed.nextLinkNumber
      for number in next..<next + 2 {
        try migration.relayed.order(
          FaultOrder(.reset, to: .number(number), .toServer, afterByteCount: 1))
      }
      try migration.relayed.order(FaultOrder(.refuse))
      try migration.relayed.order(FaultOrder(.reset))
      try migration.expectLinkLost()
      try migration.receiver?.waitFor("does not answer")
      try migration.relayed.order(FaultOrder(.listen))
      try migration.relayed.waitFor("fault") { $0.target == "\(next + 1)" }
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test("case 8: three outages in one migration, each of another kind")
    func threeOutages() throws {
      let migration = try Migration.withOpenWindow()
      let faults = [FaultOrder(.cut), FaultOrder(.drop), FaultOrder(.reset)]
      for (index, fault) in faults.enumerated() {
        try migration.relayed.order(fault)
        try migration.expectLinkLost(count: index + 1)
        try migration.relayed.order(FaultOrder(.clear))
        try migration.holdBulkDown()
        try migration.expectLinkRestored(count: index + 1)
      }
      try migration.closeWindow(lostCount: 3)
    }

    @Test("case 9: pending faults are asked for again first, and none waits for the background")
    func pendingFaults() throws {
      let migration = try Migration.withOpenWindow()
      try migration.relayed.order(FaultOrder(.drop))
      try migration.expectLinkLost()
      // Both vCPUs wait for pages that were asked for before the loss, or during it.
      try migration.expectGuestStandsStill()
      // Bulk is as good as dead from now on: 1000 bytes a second.
      try migration.relayed.order(FaultOrder(.clear))
      try migration.relayed.order(FaultOrder(.limit, to: .bulk, .toClient, value: 1000))
      try migration.expectLinkRestored()
      try migration.destination?.waitForProgress(operations: 400)
      let bulk = try migration.relayed.links.filter { $0.role == "bulk" && $0.isConnected }
      // 400 operations cannot have lived on what has come that way.
      #expect(bulk.map(\.toClientPassedByteCount).reduce(0, +) < 1 << 20)
      try migration.closeWindow()
    }

    @Test(
      "case 10: a half-received page is dropped at the loss",
      arguments: [
        FaultOrder(.cut, to: .bulk, .toClient, afterByteCount: 4096 * 30 + 1234),
        FaultOrder(.reset, to: .bulk, .toClient, afterByteCount: 65_536 * 3 + 17),
        FaultOrder(.cut, to: .urgent, .toClient, afterByteCount: 4096 * 20 + 2001),
        FaultOrder(.reset, to: .urgent, .toClient, afterByteCount: 4096 * 7 + 31),
      ])
    func halfPage(fault: FaultOrder) throws {
      let migration = try Migration.withOpenWindow()
      try migration.relayed.order(fault)
      try migration.relayed.waitFor(fault: fault.action)
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test(
      "case 10: a half-received huge page is dropped at the loss",
      .needsHugePages,
      arguments: [LinkTarget.bulk, .urgent])
    func halfHugePage(target: LinkTarget) throws {
      let shape = GuestShape(
        memory: "32M", vcpus: 2, pattern: "rate-limited-write", pageSize: "2M",
        more: ["--rate", "20"])
      let migration = try Migration(shape, Plan(link: .loopback, hasRelay: true))
      // Armed before the first page moves: in the second huge page of that connection.
      try migration.relayed.order(
        FaultOrder(.cut, to: target, .toClient, afterByteCount: 3 << 20 + 17))
      try migration.relayed.order(FaultOrder(.limit, to: .bulk, .toClient, value: 4 << 20))
      try migration.startUntilRunning()
      migration.progressOperations = 40
      try migration.relayed.waitFor(fault: .cut)
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test(
      "case 15: huge pages of 2 MiB, with an outage",
      .needsHugePages)
    func hugePagesWithOutage() throws {
      let shape = GuestShape(
        memory: "32M", vcpus: 2, pattern: "rate-limited-write", pageSize: "2M",
        more: ["--rate", "20"])
      let migration = try Migration.withOpenWindow(shape)
      migration.progressOperations = 40
      try migration.relayed.order(FaultOrder(.drop))
      try migration.expectLinkLost()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }

    @Test(
      "a byte that arrives wrong costs the connection, never a page",
      arguments: [LinkTarget.urgent, .bulk], [FaultDirection.toClient, .toServer])
    func corruption(target: LinkTarget, direction: FaultDirection) throws {
      let migration = try Migration.withOpenWindow()
      // In a page, or in the next of the few words that go to the source.
      let byteCount: UInt64 = direction == .toClient ? 900 : 5
      try migration.relayed.order(
        FaultOrder(.corrupt, to: target, direction, afterByteCount: byteCount))
      try migration.relayed.waitFor(fault: .corrupt)
      try migration.expectLinkLost()
      try migration.expectLinkRestored()
      try migration.closeWindow()
    }
  }
}
