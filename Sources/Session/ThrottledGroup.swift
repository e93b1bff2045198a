internal import System

/// The control group by which a VM's processor time is bounded: that of its VMM, and of nobody
/// else.
public struct ThrottledGroup: Codable, Hashable, Sendable {
  /// Its directory.
  public let path: String
  let isVersion2: Bool
  /// Which group: another one of that name is none of ours.
  let inode: UInt64
  /// How much processor time the VMM could use, whatever bound the group itself has.
  let usableMicrosecondsPerSecond: UInt64

  var group: ControlGroup { ControlGroup(path: path, isVersion2: isVersion2) }

  /// Whether the group is there still.
  func exists(files: HostFiles) -> Bool {
    (try? FileStatus.of(path: files.root + path))?.inode == inode
  }
}

/// Why a VM cannot be slowed down by its control group.
public enum ThrottledGroupError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Its VMM is in no group with such a bound.
  case none(pid: Int32)
  /// It is in the root group, with everything else of the host.
  case root(pid: Int32)
  /// Somebody else is in the group.
  case foreign(group: String, pid: Int32)
  /// Who is in the group cannot be seen.
  case unseen(group: String)
  /// A group has more groups below it than anybody's VMM.
  case tooManyGroups(group: String)
  /// The file is not ours to write.
  case notWritable(path: String)
  /// The group has a burst, which no smaller quota may have.
  case burst(group: String)
  /// A group below has a bound of its own: in version 1 none above may have less.
  case boundBelow(group: String)

  /// One message with what to do.
  public var description: String {
    let ownGroup =
      "run the VMM in a control group of its own, such as: "
      + "systemd-run --scope -p CPUWeight=100 COMMAND"
    return switch self {
    case .none(let pid):
      "no control group of the VMM (pid \(pid)) bounds processor time (cpu.max, in version 1 "
        + "cpu.cfs_quota_us); \(ownGroup)"
    case .root(let pid): "the VMM (pid \(pid)) is in the root control group; \(ownGroup)"
    case .foreign(let group, let pid):
      "control group \(group) is not the VMM's own, process \(pid) is in it too; \(ownGroup)"
    case .unseen(let group): "the processes of control group \(group) cannot be seen; \(ownGroup)"
    case .tooManyGroups(let group):
      "control group \(group) has more than \(ThrottledGroup.maximumGroupCount) groups below it; "
        + ownGroup
    case .notWritable(let path):
      "\(path) cannot be written by this process; run it as root, or let it write that file"
    case .burst(let group):
      "control group \(group) has a burst of processor time, which bars a smaller bound: write 0 "
        + "to its cpu.max.burst (in version 1 cpu.cfs_burst_us)"
    case .boundBelow(let group):
      "control group \(group) has a bound of processor time itself, and in version 1 no group "
        + "above it may have less: write -1 to its cpu.cfs_quota_us"
    }
  }
}

extension ThrottledGroup {
  /// More than a VMM with a group for each of 255 vCPUs has.
  static let maximumGroupCount = 1024
  /// Longer than any line of parents; one that is a ring ends there.
  private static let maximumGenerationCount = 256

  /// The group of a VMM, if it may be used: all processes in it and below are that one or came
  /// from it. `vcpuCount` where it is known. Costs a look at each thread of the VMM.
  public static func find(
    ofVMM pid: Int32, vcpuCount: Int?
  ) throws(ThrottledGroupError) -> ThrottledGroup {
    try find(
      ofVMM: pid, vcpuCount: vcpuCount, onlineCount: HostProcessors.onlineCount,
      files: HostFiles())
  }

  static func find(
    ofVMM pid: Int32, vcpuCount: Int?, onlineCount: Int, files: HostFiles
  ) throws(ThrottledGroupError) -> ThrottledGroup {
    let (group, above) = try nearest(toVMM: pid, files)
    let below = try groups(below: group, files)
    for member in [group] + below { try requireOwn(member, ofVMM: pid, files) }
    guard FileSystem.isReadWritable(files.root + group.quotaPath),
      let status = try? FileStatus.of(path: files.root + group.path)
    else { throw .notWritable(path: group.quotaPath) }
    guard group.burstMicroseconds(files: files) == 0 else { throw .burst(group: group.path) }
    if !group.isVersion2 {
      for child in below where child.processorBound(files: files)?.quotaMicroseconds != nil {
        throw .boundBelow(group: child.path)
      }
    }
    var processorCount = max(1, onlineCount)
    if let vcpuCount, vcpuCount > 0 { processorCount = min(processorCount, vcpuCount) }
    var usable = UInt64(processorCount) * 1_000_000
    for bound in above.compactMap({ $0.processorBound(files: files)?.microsecondsPerSecond }) {
      usable = min(usable, bound)
    }
    return ThrottledGroup(
      path: group.path, isVersion2: group.isVersion2, inode: status.inode,
      usableMicrosecondsPerSecond: usable)
  }

  /// The nearest group with a bound that all threads of the VMM are in or below, and those above.
  private static func nearest(
    toVMM pid: Int32, _ files: HostFiles
  ) throws(ThrottledGroupError) -> (ControlGroup, above: [ControlGroup]) {
    // Threads may be in groups of their own, as libvirt has them for vCPUs.
    let threads = files.entryNames("/proc/\(pid)/task").compactMap {
      files.text("/proc/\(pid)/task/\($0)/cgroup")
    }.map { ControlGroup.memberships(in: $0, controller: "cpu") }
    // The controller is in one hierarchy; where both are there, version 1 has it.
    for isVersion2 in [false, true] {
      let memberships = threads.map { $0.first { $0.isVersion2 == isVersion2 } }
      guard let first = memberships.first ?? nil else { continue }
      let common = first.ancestors.filter { name in
        memberships.allSatisfy { $0?.ancestors.contains(name) ?? false }
      }
      for base in first.bases {
        let groups = common.map { ControlGroup(path: base + $0, isVersion2: isVersion2) }
        guard let index = groups.firstIndex(where: { $0.processorBound(files: files) != nil })
        else { continue }
        guard !common[index].isEmpty else { throw .root(pid: pid) }
        return (groups[index], above: Array(groups[(index + 1)...]))
      }
    }
    throw .none(pid: pid)
  }

  private static func groups(
    below top: ControlGroup, _ files: HostFiles
  ) throws(ThrottledGroupError) -> [ControlGroup] {
    var found: [ControlGroup] = []
    var unseen = [top]
    while let group = unseen.popLast() {
      let children = files.directoryNames(group.path).map {
        ControlGroup(path: "\(group.path)/\($0)", isVersion2: group.isVersion2)
      }
      found += children
      unseen += children
      guard found.count <= maximumGroupCount else { throw .tooManyGroups(group: top.path) }
    }
    return found
  }

  private static func requireOwn(
    _ group: ControlGroup, ofVMM pid: Int32, _ files: HostFiles
  ) throws(ThrottledGroupError) {
    guard let text = files.text("\(group.path)/cgroup.procs") else {
      // A group of threads has no list of processes: they stand in that of the group above.
      if files.text("\(group.path)/cgroup.type") == "threaded" { return }
      throw .unseen(group: group.path)
    }
    for line in text.split(separator: "\n") {
      // 0: of another process namespace.
      let process = Int32(line) ?? 0
      guard process > 0, isProcess(process, of: pid, files) else {
        throw .foreign(group: group.path, pid: process)
      }
    }
  }

  /// Whether a process is the VMM or came from it; one that has ended meanwhile is nobody else's.
  private static func isProcess(_ process: Int32, of vmm: Int32, _ files: HostFiles) -> Bool {
    var ancestor = process
    for _ in 0..<maximumGenerationCount {
      if ancestor == vmm { return true }
      guard
        let parent = files.value(of: "PPid", in: "/proc/\(ancestor)/status").flatMap({ Int32($0) })
      else { return ancestor == process }
      ancestor = parent
    }
    return false
  }
}
