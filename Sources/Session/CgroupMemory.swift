/// How much memory the control groups of a process still let it have.
///
/// Pages that COPY installs are charged to the VMM's group, pages that we write to ours: ask for
/// both processes.
struct CgroupMemory: Hashable, Sendable {
  /// The tightest group on the way up.
  let path: String
  /// Its limit.
  let limitByteCount: UInt64
  /// What it has left: the limit less the usage that the kernel cannot simply drop.
  let availableByteCount: UInt64

  /// The tightest limit over a process, nil when there is none. Reads version 2, version 1, and
  /// hosts that have both.
  static func tightest(ofPID pid: Int32?, files: HostFiles) -> CgroupMemory? {
    let process = pid.map(String.init) ?? "self"
    guard let text = files.text("/proc/\(process)/cgroup") else { return nil }
    var tightest: CgroupMemory?
    for line in text.split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let bases: [String]
      let names: Names
      if fields[0] == "0" {
        bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        names = .version2
      } else if fields[1].split(separator: ",").contains("memory") {
        bases = ["/sys/fs/cgroup/memory"]
        names = .version1
      } else {
        continue
      }
      for base in bases {
        for path in ancestors(of: String(fields[2])) {
          guard let group = read(base + path, names, files) else { continue }
          if group.availableByteCount < tightest?.availableByteCount ?? .max { tightest = group }
        }
      }
    }
    return tightest
  }

  private struct Names: Sendable {
    let limit: String
    let usage: String
    let droppable: String

    static let version2 = Names(
      limit: "memory.max", usage: "memory.current", droppable: "inactive_file")
    static let version1 = Names(
      limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes",
      droppable: "total_inactive_file")
  }

  /// Version 1 writes "no limit" as the largest multiple of a page: nothing above this is one.
  private static let noLimitByteCount: UInt64 = 1 << 60

  private static func read(_ path: String, _ names: Names, _ files: HostFiles) -> CgroupMemory? {
    guard let limit = files.number("\(path)/\(names.limit)"), limit < noLimitByteCount,
      let usage = files.number("\(path)/\(names.usage)")
    else { return nil }
    let droppable =
      files.value(of: names.droppable, in: "\(path)/memory.stat").flatMap { UInt64($0) } ?? 0
    let firm = usage - min(usage, droppable)
    return CgroupMemory(
      path: path, limitByteCount: limit, availableByteCount: limit - min(limit, firm))
  }

  /// "/a/b", "/a" and "". A path that leads out of our namespace ("/../x") names nothing here.
  private static func ancestors(of path: String) -> [String] {
    var paths: [String] = []
    var parts = path.split(separator: "/")
    while !parts.isEmpty {
      paths.append("/" + parts.joined(separator: "/"))
      parts.removeLast()
    }
    return paths + [""]
  }
}
