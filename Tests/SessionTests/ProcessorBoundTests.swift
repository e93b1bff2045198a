import System
import Testing

@testable import Session

@Suite("Bounds of processor time")
struct ProcessorBoundTests {
  @Test("are read as both versions write them, and written as they were")
  func reading() {
    #expect(
      ProcessorBound(version2: "max 100000")
        == ProcessorBound(quotaMicroseconds: nil, periodMicroseconds: 100_000))
    for text in ["max 100000", "150000 100000", "1000 1000000"] {
      #expect(ProcessorBound(version2: text)?.version2Text == text)
    }
    for text in ["", "max", "-1 100000", "0 100000", "1000 0", "1000 1000001", "1 2 3"] {
      #expect(ProcessorBound(version2: text) == nil, "\(text)")
    }
    #expect(
      ProcessorBound(version1Quota: "-1", period: "50000")
        == ProcessorBound(quotaMicroseconds: nil, periodMicroseconds: 50_000))
    for text in ["-1", "25000"] {
      #expect(ProcessorBound(version1Quota: text, period: "50000")?.version1QuotaText == text)
    }
    for text in ["", "max", "-2", "0"] {
      #expect(ProcessorBound(version1Quota: text, period: "50000") == nil, "\(text)")
    }
  }

  @Test(
    "take their share of what can be used, never less than the kernel's least, never more than was",
    arguments: [
      // What bounds already, period, usable in a second, percent, what is left.
      (nil, 100_000, 2_000_000, 80, 40_000),
      (nil, 100_000, 1_000_000, 99, 1000),
      (nil, 10_000, 1_000_000, 99, 1000),
      (150_000, 100_000, 2_000_000, 50, 75_000),
      (150_000, 100_000, 1_000_000, 20, 80_000),
      (400_000, 50_000, 2_000_000, 20, 80_000),
      (1000, 1000, 1_000_000, 50, 1000),
      (UInt64.max, 100_000, 1_000_000, 50, 50_000),
    ] as [(UInt64?, UInt64, UInt64, Int, UInt64)])
  func slowed(quota: UInt64?, period: UInt64, usable: UInt64, percent: Int, left: UInt64) {
    let bound = ProcessorBound(quotaMicroseconds: quota, periodMicroseconds: period)
    #expect(
      bound.slowed(byPercent: percent, usable: usable)
        == ProcessorBound(quotaMicroseconds: left, periodMicroseconds: period))
  }
}

@Suite("Bounds below others")
struct NestedBoundTests {
  @Test(
    "are as much of what they were as those allow",
    arguments: [
      // What it was, what is above, and its period, what is left.
      (50_000, 20_000, 100_000, 20_000), (50_000, 20_000, 50_000, 40_000),
      (50_000, 90_000, 100_000, 50_000), (50_000, nil, 100_000, 50_000),
      (nil, 20_000, 100_000, nil), (50_000, 500, 100_000, 1000),
    ] as [(UInt64?, UInt64?, UInt64, UInt64?)])
  func limited(quota: UInt64?, above: UInt64?, period: UInt64, left: UInt64?) {
    let bound = ProcessorBound(quotaMicroseconds: quota, periodMicroseconds: 100_000)
    let other = ProcessorBound(quotaMicroseconds: above, periodMicroseconds: period)
    #expect(bound.limited(to: other).quotaMicroseconds == left)
    #expect(bound.limited(to: other).periodMicroseconds == 100_000)
  }
}

@Suite("The control group of a VMM")
struct ThrottledGroupTests {
  private let scratch: ScratchDirectory
  private let files: HostFiles

  init() throws {
    scratch = try ScratchDirectory()
    files = HostFiles(root: scratch.path)
  }

  private func find(_ pid: Int32 = 40, vcpuCount: Int? = nil) throws -> ThrottledGroup {
    try ThrottledGroup.find(
      ofVMM: pid, vcpuCount: vcpuCount, onlineCount: 4, files: files, ownPID: 99)
  }

  /// A process with one thread for each group that is named, as /proc shows it.
  private func process(_ pid: Int32, parent: Int32, _ groups: String...) throws {
    try scratch.write("PPid:\t\(parent)\n", to: "proc/\(pid)/status")
    for (index, text) in groups.enumerated() {
      try scratch.write(text, to: "proc/\(pid)/task/\(Int(pid) + index)/cgroup")
    }
  }

  private func group1(_ name: String, quota: String = "-1", processes: String) throws {
    let path = "sys/fs/cgroup/cpu" + name
    try scratch.write("\(quota)\n", to: path + "/cpu.cfs_quota_us")
    try scratch.write("100000\n", to: path + "/cpu.cfs_period_us")
    try scratch.write(processes, to: path + "/cgroup.procs")
  }

  private func group2(_ name: String, bound: String?, processes: String?) throws {
    let path = "sys/fs/cgroup" + name
    if let bound { try scratch.write("\(bound)\n", to: path + "/cpu.max") }
    if let processes { try scratch.write(processes, to: path + "/cgroup.procs") }
  }

  @Test("is its own with all that came from it, in version 1 and in version 2")
  func own() throws {
    try process(40, parent: 7, "1:cpu,cpuacct:/vm\n0::/x\n")
    try process(41, parent: 40)
    try process(42, parent: 41)
    try group1("", processes: "1\n7\n")
    try group1("/vm", processes: "40\n42\n")
    try group1("/vm/sub", processes: "41\n")
    let one = try find()
    #expect(one.path == "/sys/fs/cgroup/cpu/vm" && !one.isVersion2)
    #expect(one.usableMicrosecondsPerSecond == 4_000_000)
    #expect(try find(vcpuCount: 2).usableMicrosecondsPerSecond == 2_000_000)
    try process(50, parent: 7, "0::/slice/vm\n")
    try group2("/slice", bound: "150000 100000", processes: "")
    try group2("/slice/vm", bound: "max 100000", processes: "50\n")
    let two = try find(50)
    #expect(two.path == "/sys/fs/cgroup/slice/vm" && two.isVersion2)
    #expect(two.usableMicrosecondsPerSecond == 1_500_000, "the group above allows no more")
  }

  @Test("is above the groups that its threads have")
  func threads() throws {
    try process(40, parent: 7, "0::/vm/emulator\n", "0::/vm/vcpu0\n", "0::/vm/vcpu1\n")
    try group2("/vm", bound: "max 100000", processes: "40\n")
    for name in ["emulator", "vcpu0", "vcpu1"] {
      try scratch.write("max 100000\n", to: "sys/fs/cgroup/vm/\(name)/cpu.max")
      try scratch.write("threaded\n", to: "sys/fs/cgroup/vm/\(name)/cgroup.type")
    }
    #expect(try find().path == "/sys/fs/cgroup/vm")
    // A group of threads in which all of them are does not tell who else is in it.
    try process(45, parent: 7, "0::/vm/emulator\n")
    let foreign = ThrottledGroupError.foreign(group: "/sys/fs/cgroup/vm", pid: 40)
    #expect(throws: foreign) { try find(45) }
    try scratch.write("domain\n", to: "sys/fs/cgroup/vm/vcpu0/cgroup.type")
    #expect(throws: ThrottledGroupError.unseen(group: "/sys/fs/cgroup/vm/vcpu0")) { try find() }
  }

  @Test("is none without a controller, the root, or where somebody else is")
  func refused() throws {
    #expect(throws: ThrottledGroupError.none(pid: 40)) { try find() }
    try process(40, parent: 7, "0::/vm\n")
    #expect(throws: ThrottledGroupError.none(pid: 40)) { try find() }
    // The nearest group with the controller counts, and others are in it.
    try group2("/slice", bound: "max 100000", processes: "60\n")
    try group2("/slice/vm", bound: nil, processes: "44\n")
    try process(44, parent: 7, "0::/slice/vm\n")
    try process(60, parent: 1, "0::/slice\n")
    let slice = "/sys/fs/cgroup/slice"
    #expect(throws: ThrottledGroupError.foreign(group: slice, pid: 60)) { try find(44) }
    try process(45, parent: 7, "1:cpu:/\n0::/slice/vm\n")
    try group1("", processes: "1\n45\n")
    #expect(throws: ThrottledGroupError.root(pid: 45)) { try find(45) }
    // The VMM's own parent is not the VMM's; nor is a process of another namespace.
    try process(46, parent: 7, "1:cpu:/vm\n")
    try process(7, parent: 1)
    try group1("/vm", processes: "46\n")
    try group1("/vm/sub", processes: "7\n")
    let sub = "/sys/fs/cgroup/cpu/vm/sub"
    #expect(throws: ThrottledGroupError.foreign(group: sub, pid: 7)) { try find(46) }
    try group1("/vm/sub", processes: "0\n")
    #expect(throws: ThrottledGroupError.foreign(group: sub, pid: 0)) { try find(46) }
    // One that cannot be seen, and is in the group still, has not ended.
    try group1("/vm/sub", processes: "43\n")
    #expect(throws: ThrottledGroupError.foreign(group: sub, pid: 43)) { try find(46) }
    try process(99, parent: 46)
    try group1("/vm/sub", processes: "99\n")
    #expect(throws: ThrottledGroupError.ours(group: sub)) { try find(46) }
    let message = "\(ThrottledGroupError.foreign(group: sub, pid: 7))"
    #expect(message.contains(sub) && message.contains("systemd-run --scope"))
  }

  @Test("takes no smaller bound with a burst, or in version 1 with a bound below it")
  func barred() throws {
    try process(40, parent: 7, "1:cpu:/vm\n")
    try group1("/vm", processes: "40\n")
    try group1("/vm/sub", quota: "50000", processes: "")
    let sub = "/sys/fs/cgroup/cpu/vm/sub"
    #expect(throws: ThrottledGroupError.boundBelow(group: sub)) { try find() }
    try group1("/vm/sub", processes: "")
    #expect(try find().path == "/sys/fs/cgroup/cpu/vm")
    try scratch.write("20000\n", to: "sys/fs/cgroup/cpu/vm/cpu.cfs_burst_us")
    #expect(throws: ThrottledGroupError.burst(group: "/sys/fs/cgroup/cpu/vm")) { try find() }
  }
}
