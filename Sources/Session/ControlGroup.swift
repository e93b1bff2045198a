/// One control group that a process is in, by its directory. Version 2, version 1, and hosts that
/// have both.
struct ControlGroup: Hashable, Sendable {
  /// Its directory under /sys/fs/cgroup.
  let path: String
  let isVersion2: Bool

  /// All groups of a process, nil for this one, up to the root: where a controller's files may be,
  /// `controller` being its name in version 1.
  static func all(ofPID pid: Int32?, controller: String, files: HostFiles) -> [ControlGroup] {
    let process = pid.map(String.init) ?? "self"
    guard let text = files.text("/proc/\(process)/cgroup") else { return [] }
    var groups: [ControlGroup] = []
    for line in text.split(separator: "\n") {
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      let isVersion2 = fields[0] == "0"
      let bases: [String]
      if isVersion2 {
        bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
      } else if fields[1].split(separator: ",").contains(Substring(controller)) {
        // Controllers that are mounted together have links with their own names, mostly.
        bases = Set([controller, String(fields[1])]).sorted().map { "/sys/fs/cgroup/\($0)" }
      } else {
        continue
      }
      for base in bases {
        for path in ancestors(of: String(fields[2])) {
          groups.append(ControlGroup(path: base + path, isVersion2: isVersion2))
        }
      }
    }
    return groups
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
