/// Whether the control groups of this process bound the processor time that it may use. Then what
/// one thread spends without need the others lack, at once and for the rest of a period.
public enum CgroupProcessorTime {
  /// Whether a group that this process can see has a bound (cpu.max, in version 1
  /// cpu.cfs_quota_us).
  public static var isBounded: Bool { isBounded(files: HostFiles()) }

  static func isBounded(files: HostFiles) -> Bool {
    ControlGroup.all(ofPID: nil, controller: "cpu", files: files).contains { group in
      group.isVersion2
        ? files.text("\(group.path)/cpu.max").map { !$0.hasPrefix("max") } ?? false
          // -1 without one.
        : files.number("\(group.path)/cpu.cfs_quota_us") != nil
    }
  }
}
