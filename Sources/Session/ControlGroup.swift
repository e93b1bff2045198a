/// One control group that a process is in, by its directory. Version 2, version 1, and hosts that
/// have both.
struct ControlGroup: Hashable, Sendable {
  /// Its directory under /sys/fs/cgroup.
  let path: String
  let isVersion2: Bool

  /// One line of /proc/PID/cgroup.
  struct Membership: Hashable, Sendable {
    /// The group as the kernel names it, "/a/b".
    let name: String
    /// Where its hierarchy may be mounted.
    let bases: [String]
    let isVersion2: Bool

    /// It and all groups above, the root last, with an empty name. A name that leads out of our
    /// namespace ("/../x") names nothing here.
    var ancestors: [String] {
      var names: [String] = []
      var parts = name.split(separator: "/")
      while !parts.isEmpty {
        names.append("/" + parts.joined(separator: "/"))
        parts.removeLast()
      }
      return names + [""]
    }
  }

  /// The groups that such a file names: where a controller's files may be, `controller` being its
  /// name in version 1.
  static func memberships(in text: String, controller: String) -> [Membership] {
    text.split(separator: "\n").compactMap { line in
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { return nil }
      let isVersion2 = fields[0] == "0"
      let bases: [String]
      if isVersion2 {
        bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
      } else if fields[1].split(separator: ",").contains(Substring(controller)) {
        // Controllers that are mounted together have links with their own names, mostly.
        bases = Set([controller, String(fields[1])]).sorted().map { "/sys/fs/cgroup/\($0)" }
      } else {
        return nil
      }
      return Membership(name: String(fields[2]), bases: bases, isVersion2: isVersion2)
    }
  }

  /// All groups of a process, nil for this one, up to the root.
  static func all(ofPID pid: Int32?, controller: String, files: HostFiles) -> [ControlGroup] {
    let process = pid.map(String.init) ?? "self"
    guard let text = files.text("/proc/\(process)/cgroup") else { return [] }
    return memberships(in: text, controller: controller).flatMap { membership in
      membership.bases.flatMap { base in
        membership.ancestors.map {
          ControlGroup(path: base + $0, isVersion2: membership.isVersion2)
        }
      }
    }
  }
}
