internal import Glibc
internal import System

// The bound of processor time that a group has, and the files that hold it.
extension ControlGroup {
  /// The file whose first number is the quota.
  var quotaPath: String { "\(path)/\(isVersion2 ? "cpu.max" : "cpu.cfs_quota_us")" }

  /// What the group has now; nil where it has no such files, or is gone.
  func processorBound(files: HostFiles) -> ProcessorBound? {
    guard let quota = files.text(quotaPath) else { return nil }
    if isVersion2 { return ProcessorBound(version2: quota) }
    guard let period = files.text("\(path)/cpu.cfs_period_us") else { return nil }
    return ProcessorBound(version1Quota: quota, period: period)
  }

  /// The same of a group that has them. EBADMSG for files that say something else.
  func presentBound(files: HostFiles) throws(SystemError) -> ProcessorBound {
    let quota = try files.firstLine(quotaPath)
    let bound =
      isVersion2
      ? ProcessorBound(version2: quota)
      : ProcessorBound(
        version1Quota: quota, period: try files.firstLine("\(path)/cpu.cfs_period_us"))
    guard let bound else { throw SystemError("read", quotaPath, .badMessage) }
    return bound
  }

  /// Whether what the group has is what was written. In version 1 the quota alone is ever written,
  /// so a period that somebody changes meanwhile stays theirs.
  func has(_ present: ProcessorBound, asWritten written: ProcessorBound) -> Bool {
    isVersion2 ? present == written : present.quotaMicroseconds == written.quotaMicroseconds
  }

  /// Bounds the group. EINVAL: a group above allows less, or a group below has more (version 1), or
  /// the burst is larger. EACCES and EROFS: not ours to change. ENODEV and ENOENT: it is gone.
  func write(_ bound: ProcessorBound, files: HostFiles) throws(SystemError) {
    let text = isVersion2 ? bound.version2Text : bound.version1QuotaText
    let file = try OwnedDescriptor.open(files.root + quotaPath, flags: O_WRONLY | O_TRUNC)
    try file.writeAll(Array(text.utf8), atOffset: 0, operand: quotaPath)
  }

  /// What may be used beyond the quota when less was used before: "burst", 0 without.
  func burstMicroseconds(files: HostFiles) -> UInt64 {
    files.number("\(path)/\(isVersion2 ? "cpu.max.burst" : "cpu.cfs_burst_us")") ?? 0
  }
}
