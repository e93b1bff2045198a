import Pages
import System
import Testing
import UFFD
import Wire

@testable import Session

@Suite("What a host can do")
struct HostTests {
  static let good = HostCapabilities(
    kernelRelease: "6.18.0",
    userfaultfd: .available(.known, throughDevice: true), hasUserfaultfdDevice: true,
    ioUringError: nil, ioUringDisabled: 0, hasKVM: true, sharedMemoryHugePages: "never",
    hugePageCount: 64, freeHugePageCount: 60, availableByteCount: 8 << 30,
    groupAvailableByteCount: nil, mayRaisePriority: true, mayTrace: true)

  private func image(_ byteCount: UInt64, _ pageSize: PageSize = .small) throws -> ImageLayout {
    try ImageLayout([
      Region(
        index: RegionIndex(0), imageOffset: .zero, byteCount: ByteCount(rawValue: byteCount),
        pageSize: pageSize)
    ])
  }

  private func refusals(
    _ host: HostCapabilities, _ image: ImageLayout, group: UInt64? = nil,
    memory: Preflight.DestinationMemory = .sharedMemory
  ) -> [Refusal] {
    Preflight.refusals(
      of: Preflight.destinationFindings(
        image: image, memory: memory, host: host, vmmGroupAvailable: group, stagesSeeds: false))
  }

  @Test("A host that has everything is described without anything to run")
  func goodHost() throws {
    #expect(Self.good.findings().allSatisfy { $0.verdict == .good })
    #expect(!Self.good.describe().contains("run: "))
    #expect(refusals(Self.good, try image(1 << 30)).isEmpty)
    #expect(refusals(Self.good, try image(128 << 20, .huge)).isEmpty)
  }

  @Test("Each thing that is missing refuses a destination, with the line to run")
  func missing() throws {
    let cases: [(String, (inout HostCapabilities) -> Void)] = [
      ("setfacl -m u:$USER:rw /dev/userfaultfd", { $0.userfaultfd = .forbidden(.notPermitted) }),
      (
        "sysctl vm.unprivileged_userfaultfd=1",
        {
          $0.userfaultfd = .forbidden(.notPermitted)
          $0.hasUserfaultfdDevice = false
        }
      ),
      ("CONFIG_USERFAULTFD", { $0.userfaultfd = .absent }),
      ("EVENT_REMOVE", { $0.userfaultfd = .available([], throughDevice: false) }),
      (
        "sysctl kernel.io_uring_disabled=0",
        {
          $0.ioUringError = .notPermitted
          $0.ioUringDisabled = 2
        }
      ),
      ("seccomp", { $0.ioUringError = .notPermitted }),
      ("shmem_enabled is always", { $0.sharedMemoryHugePages = "always" }),
      ("has 512 MiB available", { $0.availableByteCount = 512 << 20 }),
      ("its control group leaves 10 MiB", { $0.groupAvailableByteCount = 10 << 20 }),
    ]
    for (expected, change) in cases {
      var host = Self.good
      change(&host)
      let found = refusals(host, try image(1 << 30))
      #expect(found.count == 1, "\(expected): \(found)")
      #expect(found.first?.code == .unfit)
      #expect(found.first?.reason.contains(expected) == true, "\(found)")
    }
  }

  @Test("Huge pages, control groups and private memory have their own rules")
  func special() throws {
    let group = refusals(Self.good, try image(1 << 30), group: 100 << 20)
    #expect(group.map { $0.reason.contains("control group leaves 100 MiB") } == [true])
    let huge = refusals(Self.good, try image(200 << 20, .huge))
    #expect(huge.map { $0.reason.contains("vm.nr_hugepages=100") } == [true])
    var host = Self.good
    host.sharedMemoryHugePages = "force"
    #expect(refusals(host, try image(1 << 20), memory: .privateMemory).isEmpty)
    host.mayTrace = false
    #expect(Preflight.sourceRefusals(readsOtherProcess: true, host: host).count == 1)
    #expect(Preflight.sourceRefusals(readsOtherProcess: false, host: host).isEmpty)
  }

  @Test("The tightest control group counts, of either version, with what can be dropped")
  func controlGroups() throws {
    let scratch = try ScratchDirectory()
    let files = HostFiles(root: scratch.path)
    try scratch.write("4:memory:/a/b\n0::/u/v\n", to: "proc/self/cgroup")
    #expect(CgroupMemory.tightest(ofPID: nil, files: files) == nil)
    let one = "sys/fs/cgroup/memory"
    try scratch.write("9223372036854771712\n", to: "\(one)/a/b/memory.limit_in_bytes")
    try scratch.write("500\n", to: "\(one)/a/b/memory.usage_in_bytes")
    #expect(CgroupMemory.tightest(ofPID: nil, files: files) == nil, "no limit is no limit")
    try scratch.write("10000\n", to: "\(one)/a/memory.limit_in_bytes")
    try scratch.write("6000\n", to: "\(one)/a/memory.usage_in_bytes")
    try scratch.write("cache 9\ntotal_inactive_file 1000\n", to: "\(one)/a/memory.stat")
    #expect(CgroupMemory.tightest(ofPID: nil, files: files)?.availableByteCount == 5000)
    let two = "sys/fs/cgroup/unified/u"
    try scratch.write("max\n", to: "\(two)/v/memory.max")
    try scratch.write("1\n", to: "\(two)/v/memory.current")
    try scratch.write("4000\n", to: "\(two)/memory.max")
    try scratch.write("4500\n", to: "\(two)/memory.current")
    let tightest = try #require(CgroupMemory.tightest(ofPID: nil, files: files))
    #expect(tightest.availableByteCount == 0)
    #expect(tightest.path.hasSuffix("/u"))
  }

  @Test("Processor time is bounded where one group on the way up bounds it")
  func processorTime() throws {
    let scratch = try ScratchDirectory()
    let files = HostFiles(root: scratch.path)
    #expect(!CgroupProcessorTime.isBounded(files: files))
    try scratch.write("2:cpu,cpuacct:/a/b\n0::/u/v\n", to: "proc/self/cgroup")
    try scratch.write("max 100000\n", to: "sys/fs/cgroup/u/v/cpu.max")
    try scratch.write("-1\n", to: "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us")
    #expect(!CgroupProcessorTime.isBounded(files: files))
    try scratch.write("150000 100000\n", to: "sys/fs/cgroup/u/cpu.max")
    #expect(CgroupProcessorTime.isBounded(files: files))
    try scratch.write("max 100000\n", to: "sys/fs/cgroup/u/cpu.max")
    #expect(!CgroupProcessorTime.isBounded(files: files))
    try scratch.write("50000\n", to: "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us")
    #expect(CgroupProcessorTime.isBounded(files: files))
  }

  @Test("Facts are read from the kernel's files")
  func files() throws {
    let scratch = try ScratchDirectory()
    let files = HostFiles(root: scratch.path)
    try scratch.write("6.1.0-28\n", to: "proc/sys/kernel/osrelease")
    try scratch.write("MemTotal:  9 kB\nMemAvailable:   2048 kB\n", to: "proc/meminfo")
    try scratch.write("Name:\tx\nCapEff:\t0000000000880000\n", to: "proc/self/status")
    try scratch.write(
      "always within_size [advise] never\n",
      to: "sys/kernel/mm/transparent_hugepage/shmem_enabled")
    let pages = "sys/kernel/mm/hugepages/hugepages-2048kB"
    try scratch.write("8\n", to: "\(pages)/nr_hugepages")
    try scratch.write("6\n", to: "\(pages)/free_hugepages")
    try scratch.write("2\n", to: "\(pages)/resv_hugepages")
    let host = HostCapabilities.probe(files)
    #expect(host.kernelRelease == "6.1.0-28")
    #expect(host.availableByteCount == 2 << 20)
    #expect(host.mayTrace && host.mayRaisePriority)
    #expect(host.sharedMemoryHugePages == "advise")
    #expect(host.hugePageCount == 8 && host.freeHugePageCount == 4)
  }

  @Test("This host can be described")
  func thisHost() {
    let host = HostCapabilities.probe()
    #expect(host.availableByteCount > 0)
    let lines = host.describe().split(separator: "\n")
    #expect(lines.count >= host.findings().count)
    #expect(lines[0].contains(host.kernelRelease))
  }
}
