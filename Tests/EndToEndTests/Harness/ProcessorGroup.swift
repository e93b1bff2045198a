import Glibc
import System
package import Testing

/// A control group for processor time of its own, of version 1.
package final class ProcessorGroup {
  private static let root = "/sys/fs/cgroup/cpu"
  package let path: String

  package static let isAvailable = FileSystem.isReadWritable("\(root)/cpu.cfs_quota_us")

  package init() throws {
    let digits = try RandomBytes.make(6).map { String($0, radix: 16) }.joined()
    path = "\(Self.root)/postcopy-e2e-\(digits)"
    try #require(unsafe mkdir(path, 0o755) == 0)
  }

  // Its processes are gone by now or are moved up with it.
  deinit { _ = unsafe rmdir(path) }

  /// Puts a command into the group before it begins.
  package var prefix: [String] {
    ["sh", "-c", "echo $$ > \(path)/cgroup.procs && exec \"$@\"", "sh"]
  }

  /// Microseconds in each 100 ms; -1 for no bound.
  package var quota: String? { FileSystem.text(ofSmallFile: "\(path)/cpu.cfs_quota_us") }

  /// Waits until a program is in it.
  package func waitFor(member: Program) throws {
    let deadline = Patience.deadline()
    while !members.contains("\(member.pid)") {
      guard MonotonicClock.now() < deadline else {
        throw HarnessError(description: "\(member.name) does not come into \(path)")
      }
      try member.pause()
    }
  }

  private var members: [Substring] {
    (FileSystem.text(ofSmallFile: "\(path)/cgroup.procs") ?? "").split(separator: "\n")
  }

  package func setQuota(_ text: String) throws {
    let file = try OwnedDescriptor.open("\(path)/cpu.cfs_quota_us", flags: O_WRONLY)
    try file.writeAll(Array(text.utf8), atOffset: 0, operand: path)
  }
}

extension Trait where Self == ConditionTrait {
  package static var needsProcessorGroup: Self {
    .enabled(
      if: ProcessorGroup.isAvailable, "needs a writable control group cpu of version 1")
  }
}
