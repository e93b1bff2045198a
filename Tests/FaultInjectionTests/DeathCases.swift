import Glibc
import GuestKit
import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import System
import Testing

extension FaultInjection {
  /// SIGKILL of our processes and of the VMM, and no memory left.
  @Suite("Cases with a process that dies")
  struct DeathCases {
    @Test("case 20: SIGKILL of page-server's worker: its parent starts another one")
    func serverWorker() throws {
      let migration = try Migration.withOpenWindow()
      try #require(migration.server).killWorker()
      try migration.receiver?.waitFor(event: "link-restored")
      try migration.destination?.waitForProgress(operations: 100)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("case 20: SIGKILL of page-server and its worker: recover goes on")
    func server() throws {
      let migration = try Migration.withOpenWindow()
      try #require(migration.server).kill()
      try migration.receiver?.waitFor(event: "link-lost")
      #expect(try migration.source.status.state != "running")
      try migration.recoverServer()
      try migration.receiver?.waitFor(event: "link-restored")
      try migration.destination?.waitForProgress(operations: 100)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("case 21: SIGKILL of postcopyd's worker: its parent starts another one")
    func receiverWorker() throws {
      let migration = try Migration.withOpenWindow()
      try #require(migration.receiver).killWorker()
      try migration.server?.waitFor(event: "link-restored")
      try migration.destination?.waitForProgress(operations: 100)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("case 21: SIGKILL of postcopyd, its parent alone: the worker goes on")
    func receiverParent() throws {
      let migration = try Migration.withOpenWindow()
      let first = try #require(migration.receiver)
      try #require(!first.processes.dropFirst().isEmpty, "postcopyd has no worker process")
      try first.signal(SIGKILL)
      try migration.destination?.waitForProgress(operations: 100)
      try migration.recoverReceiver()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("case 21: SIGKILL of postcopyd and its worker: recover goes on")
    func receiver() throws {
      let migration = try Migration.withOpenWindow()
      try #require(migration.receiver).kill()
      try migration.server?.waitFor(event: "link-lost")
      #expect(try migration.source.status.state != "running")
      try migration.recoverReceiver()
      try migration.server?.waitFor(event: "link-restored")
      try migration.destination?.waitForProgress(operations: 100)
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test("cases 20 and 21: SIGKILL of everything of ours at once: recover goes on on both sides")
    func everything() throws {
      let migration = try Migration.withOpenWindow()
      try #require(migration.server).kill()
      try #require(migration.receiver).kill()
      try migration.expectGuestStandsStill()
      try migration.recoverServer()
      try migration.recoverReceiver()
      try migration.relayed.order(FaultOrder(.clear))
      try migration.expectCompletion(isTakenUp: true)
    }

    @Test(
      "case 22: the source's VMM exits after the switch: its memory is ours by then",
      arguments: ["memfd", "file"], [true, false])
    func sourceVMM(backing: String, isKilled: Bool) throws {
      var shape = Migration.needy
      shape.backing = backing
      let migration = try Migration.withOpenWindow(shape)
      try migration.source.waitUntilDisabled()
      try migration.saveFrozenImage()
      if isKilled {
        try migration.source.signal(SIGKILL)
        _ = try migration.source.program.end()
      } else {
        try migration.source.quit()
      }
      try migration.destination?.waitForProgress(operations: 200)
      try migration.closeWindow(lostCount: 0)
    }

    @Test(
      "case 23: the destination runs out of memory: the VM waits until there is some",
      .enabled(if: MemoryGroup.isAvailable, "needs a writable memory control group (version 1)"))
    func outOfMemory() throws {
      let migration = try Migration(
        GuestShape(memory: "64M", vcpus: 2, more: ["--fill-percent", "100"]),
        Plan(link: .loopback, hasRelay: true))
      let group = try MemoryGroup(limitByteCount: 256 << 20)
      migration.prefixes["microvm"] = group.prefix
      try migration.startReceiver()
      try migration.startDestination()
      try migration.receiver?.waitFor("has attached")
      // Enough for the VMM and a part of the guest.
      try group.setLimit(byteCount: 48 << 20)
      try migration.startServer()
      try migration.receiver?.waitFor("out of memory")
      #expect(!(migration.receiver?.program.hasEnded ?? true))
      try group.setLimit(byteCount: 256 << 20)
      try migration.expectCompletion()
    }
  }
}
