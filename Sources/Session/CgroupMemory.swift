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
    var tightest: CgroupMemory?
    for group in ControlGroup.all(ofPID: pid, controller: "memory", files: files) {
      let names = group.isVersion2 ? Names.version2 : .version1
      guard let found = read(group.path, names, files) else { continue }
      if found.availableByteCount < tightest?.availableByteCount ?? .max { tightest = found }
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
}
