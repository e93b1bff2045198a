import LinkFaultKit
import Pages
import ProgramHarness
import Reporting
import System
import Testing

extension FaultInjection {
  /// Cases without a lost link.
  @Suite("Cases without a lost link")
  struct PlainCases {
    @Test("case 1: plain", arguments: [Plan.Link.unix, .loopback, .loopback6])
    func plain(link: Plan.Link) throws {
      let migration = try Migration(GuestShape(vcpus: 2), Plan(link: link, hasRelay: true))
      try migration.start()
      try migration.expectCompletion()
      for engine in [migration.server, migration.receiver] {
        let engine = try #require(engine)
        #expect(engine.count(ofEvent: "link-lost") == 0, "\(engine.program.transcript)")
      }
    }

    @Test("case 2: mostly zero memory, whose zeros do not travel")
    func mostlyZero() throws {
      let migration = try Migration(
        GuestShape(
          memory: "256M", vcpus: 2, pattern: "rate-limited-write",
          more: ["--fill-percent", "5", "--rate", "300"]), Plan(link: .loopback, hasRelay: true))
      try migration.start()
      try migration.expectCompletion()
      let report = try #require(migration.server?.end().report)
      #expect(report.pages.zero > report.pages.total * 8 / 10)
      // All that has crossed the link, in both directions and with every header.
      #expect(report.bytes.demanded + report.bytes.pushed < 64 << 20)
    }

    @Test("case 4: urgent pages do not wait for bulk that is stuck with its queue full")
    func urgentUnderBulk() throws {
      let migration = try Migration.withOpenWindow()
      try migration.relayed.order(FaultOrder(.stall, to: .bulk, .toClient))
      let demanded = try urgentBytes(migration)
      // 400 operations need about as many pages, and not one comes by bulk.
      try migration.destination?.waitForProgress(operations: 400)
      #expect(try urgentBytes(migration) > demanded + 100 * 4096)
      try migration.closeWindow(lostCount: 0)
    }

    private func urgentBytes(_ migration: Migration) throws -> UInt64 {
      try migration.relayed.links.filter { $0.role == "urgent" }.map(\.toClientByteCount)
        .reduce(0, +)
    }

    @Test(
      "case 15: huge pages of 2 MiB", .needsHugePages,
      arguments: ["post-copy", "quick"])
    func hugePages(mode: String) throws {
      let migration = try Migration(
        GuestShape(memory: "32M", vcpus: 2, pageSize: "2M"),
        Plan(mode: mode, link: .loopback, hasRelay: true))
      try migration.start()
      try migration.expectCompletion()
    }

    @Test("case 18: a bandwidth cap holds bulk down and does not slow urgent pages")
    func bandwidthCap() throws {
      let bytesPerSecond: UInt64 = 200_000
      let migration = try Migration(
        GuestShape(memory: "32M", vcpus: 2),
        Plan(
          link: .loopback, hasRelay: true,
          serverOptions: ["--bandwidth", "\(bytesPerSecond)"]))
      try migration.start()
      // At the cap 32 MiB would take longer than anybody waits here: the guest pulls them.
      try migration.expectCompletion()
      let report = try #require(migration.server?.end().report)
      let seconds = Double(report.totalNanoseconds) / 1e9
      // Twice: the map, the device state and headers are not held down.
      let most = 2 * (Double(bytesPerSecond) * seconds + 262_144)
      #expect(Double(report.bytes.pushed) < most)
      #expect(report.bytes.demanded > report.bytes.pushed)
    }

    @Test("case 19: all memory compared, and a histogram of every fault")
    func histogram() throws {
      let migration = try Migration(
        GuestShape(memory: "32M", vcpus: 2), Plan(link: .loopback, hasRelay: true))
      try migration.start()
      try migration.expectCompletion()
      let faults = try #require(migration.receiver?.end().report?.faults)
      #expect(faults.count > 0)
      #expect(faults.histogram.map(\.count).reduce(0, +) == faults.count)
      let p50 = try #require(faults.p50Nanoseconds)
      let p99 = try #require(faults.p99Nanoseconds)
      let p999 = try #require(faults.p999Nanoseconds)
      #expect(0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= faults.maximumNanoseconds)
    }

    @Test(
      "case 24: pages given back while the push races with it",
      arguments: [
        ("memfd", "remove"), ("memfd", "dontneed"), ("private", "dontneed"), ("memfd", "punch"),
      ], ["bubbling", "linear"])
    func removal(how: (backing: String, method: String), prefetch: String) throws {
      let migration = try Migration(
        GuestShape(
          memory: "32M", vcpus: 2, backing: how.backing,
          more: ["--remove-every", "5", "--remove-by", how.method]),
        Plan(
          memory: how.backing == "private" ? .ranges : .file, link: .loopback, prefetch: prefetch,
          hasRelay: true))
      // What is on its way when a page is given back comes after it.
      try migration.relayed.order(FaultOrder(.delay, to: .bulk, .toClient, value: 5))
      try migration.start()
      try migration.expectCompletion()
    }
  }
}
