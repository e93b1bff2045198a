import ProgramHarness
import Reporting
import Testing

extension EndToEnd {
  /// Each ends with the guest's own check and a full comparison with the frozen source.
  @Suite("A VM moves")
  struct MoveTests {
    private func move(_ shape: GuestShape, _ plan: Plan = Plan()) throws {
      let migration = try Migration(shape, plan)
      try migration.start()
      try migration.expectCompletion()
    }

    @Test(
      "in each mode, with 1, 2 and 4 vCPUs",
      arguments: ["post-copy", "hybrid", "pre-copy", "quick"], [1, 2, 4])
    func modes(mode: String, vcpus: Int) throws {
      try move(GuestShape(vcpus: vcpus), Plan(mode: mode, serverOptions: rounds(of: mode)))
    }

    /// A guest that writes without pause may never come to fit: then it is switched over.
    private func rounds(of mode: String) -> [String] {
      mode == "pre-copy" ? ["--max-time", "5", "--at-limit", "switch"] : []
    }

    @Test(
      "whatever way the guest visits its pages",
      arguments: ["sequential", "strided", "random-read", "zipf", "chase", "rate-limited-write"])
    func patterns(pattern: String) throws {
      try move(GuestShape(vcpus: 2, pattern: pattern))
    }

    @Test(
      "from a memory file, from a process's ranges and from the mapping that is found",
      arguments: [
        ("file", Plan.Memory.file), ("memfd", .process), ("private", .ranges), ("memfd", .ranges),
      ])
    func backings(backing: String, memory: Plan.Memory) throws {
      try move(GuestShape(backing: backing), Plan(memory: memory))
    }

    @Test(
      "in huge pages", .needsHugePages,
      arguments: [("memfd", Plan.Memory.file), ("private", .process)],
      ["post-copy", "hybrid", "pre-copy", "quick"])
    func hugePages(backing: (String, Plan.Memory), mode: String) throws {
      try move(
        GuestShape(memory: "32M", vcpus: 2, pageSize: "2M", backing: backing.0),
        Plan(mode: mode, memory: backing.1, serverOptions: rounds(of: mode)))
    }

    @Test(
      "in several regions, more than the seven that Firecracker sends",
      arguments: [2, 8], [Plan.Memory.file, .ranges])
    func regions(count: Int, memory: Plan.Memory) throws {
      try move(GuestShape(regions: count), Plan(memory: memory))
    }

    @Test(
      "in each dialect of the attach socket", arguments: ["1.4", "1.7", "1.12", "two-descriptors"])
    func dialects(dialect: String) throws {
      try move(GuestShape(), Plan(dialect: dialect))
    }

    @Test("over TCP, IPv4 and IPv6", arguments: [Plan.Link.loopback, .loopback6])
    func links(link: Plan.Link) throws {
      try move(GuestShape(vcpus: 2), Plan(link: link))
    }

    @Test(
      "in packed pages", arguments: ["lz4", "zstd"], ["post-copy", "hybrid", "pre-copy", "quick"])
    func packed(compression: String, mode: String) throws {
      var plan = Plan(
        mode: mode, link: .loopback, bulkConnections: 2, serverOptions: rounds(of: mode))
      plan.compression = compression
      let migration = try Migration(GuestShape(memory: "64M", vcpus: 2), plan)
      try migration.start()
      try migration.expectCompletion()
      let packed = try #require(migration.server?.report?.encodings)
      // Rounds that send pages again send what has changed of them, if there are any.
      #expect(packed.first?.name == compression)
      #expect(Set(packed.dropFirst().map(\.name)).isSubset(of: ["delta", "same"]))
      #expect(packed.allSatisfy { $0.sentByteCount < $0.pageByteCount / 2 })
    }

    @Test("in rounds that send what has changed of pages", arguments: [1, 3])
    func deltas(bulkConnections: Int) throws {
      var plan = Plan(
        mode: "pre-copy", link: .loopback, bulkConnections: bulkConnections,
        serverOptions: [
          "--downtime-target", "0", "--max-rounds", "4", "--at-limit", "switch",
          "--bandwidth", "\(1 << 20)",
        ])
      plan.compression = "lz4"
      // So much that a round takes a while, in which it writes again.
      plan.operationsBefore = 4000
      let migration = try Migration(
        GuestShape(memory: "64M", pattern: "rate-limited-write", more: ["--rate", "2000"]), plan)
      try migration.start()
      try migration.expectCompletion()
      let packed = try #require(migration.server?.report?.encodings)
      let delta = try #require(packed.first { $0.name == "delta" })
      #expect(delta.sentByteCount < delta.pageByteCount / 4)
    }

    @Test("whose pages are packed by themselves where the link is slow, and not where it is told")
    func packedByItself() throws {
      for (compression, isPacked) in [("auto", true), ("none", false)] {
        var plan = Plan(
          mode: "quick", link: .loopback, serverOptions: ["--bandwidth", "\(16 << 20)"])
        plan.compression = compression
        let migration = try Migration(GuestShape(memory: "64M", vcpus: 2), plan)
        try migration.start()
        try migration.expectCompletion()
        let packed = try #require(migration.server?.report?.encodings)
        #expect(packed.isEmpty == !isPacked)
      }
    }

    @Test("with every push policy and two bulk connections", arguments: ["bubbling", "linear"])
    func pushes(prefetch: String) throws {
      try move(
        GuestShape(vcpus: 2), Plan(link: .loopback, prefetch: prefetch, bulkConnections: 2))
    }

    @Test(
      "while it gives pages back",
      arguments: [
        ("memfd", "remove", "4K"), ("memfd", "dontneed", "4K"), ("private", "dontneed", "4K"),
      ], ["post-copy", "hybrid", "pre-copy", "quick"])
    func removal(how: (backing: String, method: String, pageSize: String), mode: String) throws {
      try move(
        GuestShape(
          vcpus: 2, pageSize: how.pageSize, backing: how.backing,
          more: ["--remove-every", "20", "--remove-by", how.method]),
        Plan(
          mode: mode, memory: how.backing == "private" ? .ranges : .file,
          serverOptions: rounds(of: mode)))
    }

    @Test(
      "in rounds that go into the memory itself, of a VMM that sends its file",
      .needsSmallSharedPages,
      arguments: ["memfd", "file"], ["hybrid", "pre-copy"])
    func roundsInPlace(backing: String, mode: String) throws {
      let migration = try Migration(
        GuestShape(
          memory: "64M", vcpus: 2, pattern: "rate-limited-write", backing: backing, regions: 2,
          more: ["--rate", "500", "--remove-every", "50"]),
        Plan(
          mode: mode, link: .loopback, dialect: "two-descriptors", bulkConnections: 3,
          serverOptions: [
            "--downtime-target", "0", "--max-rounds", "3", "--bandwidth", "\(64 << 20)",
          ] + (mode == "pre-copy" ? ["--at-limit", "switch"] : [])))
      try migration.start()
      try migration.expectCompletion()
      let report = try #require(migration.receiver?.report)
      #expect(report.seedsInPlace == true)
      #expect(report.pages.seeded ?? 0 > report.pages.total)
      try migration.receiver?.waitFor("in place")
    }

    @Test("in rounds that are staged, of a VMM that sends no file")
    func roundsStaged() throws {
      let migration = try Migration(GuestShape(), Plan(mode: "hybrid"))
      try migration.start()
      try migration.expectCompletion()
      #expect(migration.receiver?.report?.seedsInPlace == false)
      try migration.receiver?.waitFor("the VMM has not sent its memory's file")
    }

    @Test("without KVM: the guest of threads", arguments: ["post-copy", "quick"])
    func processGuest(mode: String) throws {
      try move(GuestShape(vcpus: 2, isProcess: true), Plan(mode: mode))
    }

    @Test(
      "in rounds, whoever tells what it writes", .needsSmallSharedPages,
      arguments: [
        ("private", Plan.Memory.ranges, "pagemap"), ("private", .ranges, "content"),
        ("memfd", .file, "pagemap"), ("memfd", .file, "content"),
      ], ["hybrid", "pre-copy"])
    func tracking(
      how: (backing: String, memory: Plan.Memory, tracking: String), mode: String
    ) throws {
      let migration = try Migration(
        GuestShape(
          memory: "32M", vcpus: 2, pattern: "rate-limited-write", backing: how.backing,
          more: ["--rate", "500", "--track-writes", "--remove-every", "50"]),
        Plan(
          mode: mode, memory: how.memory,
          serverOptions: rounds(of: mode) + ["--dirty-tracking", how.tracking]))
      try migration.start()
      try migration.expectCompletion()
      #expect(migration.server?.report?.rounds?.tracking == how.tracking)
    }

    @Test(
      "in rounds, while it punches holes into a memory file and reads them",
      .needsSmallSharedPages,
      arguments: [("punch", "4K"), ("remove", "4K"), ("dontneed", "4K")])
    func trackingOfAMemoryFile(how: (method: String, pageSize: String)) throws {
      try trackMemoryFile(how)
    }

    @Test("in rounds, while it punches huge pages out of a memory file", .needsHugePages)
    func trackingOfHugePages() throws { try trackMemoryFile(("remove", "2M")) }

    private func trackMemoryFile(_ how: (method: String, pageSize: String)) throws {
      let migration = try Migration(
        GuestShape(
          memory: "64M", vcpus: 2, pattern: "rate-limited-write", pageSize: how.pageSize,
          more: [
            "--rate", "500", "--write-percent", "30", "--track-writes", "--remove-every", "4",
            "--remove-by", how.method,
          ]),
        Plan(
          mode: "hybrid",
          // Some hundred pages are given back behind their being sent.
          serverOptions: ["--dirty-tracking", "pagemap", "--bandwidth", "\(48 << 20)"]))
      try migration.start()
      try migration.expectCompletion()
      let rounds = try #require(migration.server?.report?.rounds)
      #expect(rounds.tracking == "pagemap" && rounds.longestLookNanoseconds > 0)
    }

    @Test(
      "in rounds without KVM, which then tells nobody what it writes",
      arguments: ["hybrid", "pre-copy"])
    func processGuestInRounds(mode: String) throws {
      try move(
        GuestShape(
          vcpus: 2, pattern: "rate-limited-write", backing: "private", isProcess: true,
          more: ["--rate", "500", "--track-writes"]),
        Plan(mode: mode, memory: .ranges, serverOptions: rounds(of: mode)))
      try move(
        GuestShape(
          vcpus: 2, pattern: "rate-limited-write", isProcess: true, more: ["--rate", "500"]),
        Plan(
          mode: mode, serverOptions: rounds(of: mode) + ["--dirty-tracking", "content"]))
    }

    @Test("not in rounds, where nobody tells what it writes: it runs on")
    func noDirtyLog() throws {
      let migration = try Migration(
        GuestShape(vcpus: 2, isProcess: true),
        Plan(mode: "hybrid", serverOptions: ["--dirty-tracking", "vmm"]))
      try migration.start()
      try #require(migration.server).expectEnd("aborted", exitCode: 11, saying: "dirty log")
      try #require(migration.receiver).expectEnd("aborted", exitCode: 11)
      try migration.expectSourceRunsOn()
    }

    @Test("that is empty but for its first pages")
    func empty() throws {
      try move(GuestShape(memory: "64M", pattern: "sequential", more: ["--fill-percent", "0"]))
    }

    @Test("on to a third host, from where it came to")
    func again() throws {
      let first = try Migration(GuestShape(vcpus: 2))
      try first.start()
      _ = try first.receiver?.expectEnd("completed", exitCode: 0)
      _ = try first.server?.expectEnd("completed", exitCode: 0)
      let middle = try #require(first.destination)
      try middle.waitForProgress()
      let second = try Migration(adopting: middle, shape: first.shape)
      try second.start()
      try second.expectCompletion()
      try first.source.quit()
    }
  }
}
