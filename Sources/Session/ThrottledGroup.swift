internal import Glibc
internal import System

/// The control group by which a VM's processor time is bounded: that of its VMM, and of nobody
/// else.
public struct ThrottledGroup: Codable, Hashable, Sendable {
  /// Its directory.
  public let path: String
  let isVersion2: Bool
  /// Which group: another one of that name is none of ours.
  let inode: UInt64
  /// The root of its hierarchy, as it is mounted here, and which directory that is.
  let hierarchyPath: String
  let hierarchyInode: UInt64
  /// How much processor time the VMM could use, whatever bound the group itself has.
  let usableMicrosecondsPerSecond: UInt64

  var group: ControlGroup { ControlGroup(path: path, isVersion2: isVersion2) }

  /// Whether it is the same group, whatever it may use.
  public func isSame(as other: ThrottledGroup) -> Bool {
    inode == other.inode && path == other.path
  }

  /// Whether the group is there still. No group can be seen to be gone from where its hierarchy
  /// cannot be seen, as in another namespace: ENODEV.
  func exists(files: HostFiles) throws(SystemError) -> Bool {
    do throws(SystemError) {
      if try FileStatus.of(path: files.root + path).inode == inode { return true }
    } catch {
      guard error.errno == .noSuchEntry else { throw error }
    }
    let root = files.root + hierarchyPath
    guard try FileStatus.of(path: root).inode == hierarchyInode else {
      throw SystemError("stat", hierarchyPath, .noDevice)
    }
    // Another file system may be mounted there, and its root have the same number.
    do throws(SystemError) {
      _ = try FileStatus.of(path: root + "/cgroup.procs")
    } catch {
      throw SystemError(
        "stat", hierarchyPath, error.errno == .noSuchEntry ? .noDevice : error.errno)
    }
    return false
  }

  /// What bounds it now; nil when it is gone.
  func presentBound(files: HostFiles) throws(SystemError) -> ProcessorBound? {
    guard try exists(files: files) else { return nil }
    do throws(SystemError) {
      return try group.presentBound(files: files)
    } catch {
      // Removed a moment ago.
      guard try exists(files: files) else { return nil }
      throw error
    }
  }

  /// The most of a bound that the groups above allow now, in version 1.
  func allowed(_ bound: ProcessorBound, files: HostFiles) throws(SystemError) -> ProcessorBound {
    var allowed = bound
    allowed.periodMicroseconds = try group.presentBound(files: files).periodMicroseconds
    var above = FileSystem.directory(of: path)
    while above.count > hierarchyPath.count {
      let group = ControlGroup(path: above, isVersion2: false)
      allowed = allowed.limited(to: try group.presentBound(files: files))
      above = FileSystem.directory(of: above)
    }
    return allowed
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
  /// The migration itself is in it, and would slow itself down.
  case ours(group: String)
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
    case .ours(let group):
      "this process is in control group \(group) itself, and would slow itself down; \(ownGroup)"
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
    ofVMM pid: Int32, vcpuCount: Int?, onlineCount: Int, files: HostFiles, ownPID: Int32 = getpid()
  ) throws(ThrottledGroupError) -> ThrottledGroup {
    let (group, above, base) = try nearest(toVMM: pid, files)
    let below = try groups(below: group, files)
    for member in [group] + below { try requireOwn(member, ofVMM: pid, ownPID, files) }
    guard FileSystem.isReadWritable(files.root + group.quotaPath),
      let status = try? FileStatus.of(path: files.root + group.path),
      let hierarchy = try? FileStatus.of(path: files.root + base)
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
      hierarchyPath: base, hierarchyInode: hierarchy.inode,
      usableMicrosecondsPerSecond: usable)
  }

  /// The nearest group with a bound that all threads of the VMM are in or below, and those above.
  private static func nearest(
    toVMM pid: Int32, _ files: HostFiles
  ) throws(ThrottledGroupError) -> (ControlGroup, above: [ControlGroup], base: String) {
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
        // A group of threads does not tell who is in it: the one above, whose processes they are,
        // is asked.
        let chosen = groups.firstIndex {
          $0.processorBound(files: files) != nil && !isThreaded($0, files)
        }
        guard let index = chosen else { continue }
        guard !common[index].isEmpty else { throw .root(pid: pid) }
        return (groups[index], above: Array(groups[(index + 1)...]), base)
      }
    }
    throw .none(pid: pid)
  }

  private static func isThreaded(_ group: ControlGroup, _ files: HostFiles) -> Bool {
    group.isVersion2 && files.text("\(group.path)/cgroup.type") == "threaded"
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
    _ group: ControlGroup, ofVMM pid: Int32, _ ownPID: Int32, _ files: HostFiles
  ) throws(ThrottledGroupError) {
    guard let text = files.text("\(group.path)/cgroup.procs") else {
      // A group of threads has no list of processes: they stand in that of the group above.
      if isThreaded(group, files) { return }
      throw .unseen(group: group.path)
    }
    for line in text.split(separator: "\n") {
      // 0: of another process namespace.
      let process = Int32(line) ?? 0
      if process == ownPID { throw .ours(group: group.path) }
      if process > 0, isProcess(process, of: pid, files) { continue }
      // One that has ended meanwhile is nobody else's.
      guard let now = files.text("\(group.path)/cgroup.procs") else {
        throw .unseen(group: group.path)
      }
      if now.split(separator: "\n").contains(line) {
        throw .foreign(group: group.path, pid: process)
      }
    }
  }

  /// Whether a process is the VMM or came from it, as far as can be seen.
  private static func isProcess(_ process: Int32, of vmm: Int32, _ files: HostFiles) -> Bool {
    var ancestor = process
    for _ in 0..<maximumGenerationCount {
      if ancestor == vmm { return true }
      guard
        let parent = files.value(of: "PPid", in: "/proc/\(ancestor)/status").flatMap({ Int32($0) })
      else { return false }
      ancestor = parent
    }
    return false
  }
}
