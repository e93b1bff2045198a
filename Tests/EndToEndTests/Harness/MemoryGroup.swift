import Glibc
import System
import Testing

/// A memory control group of its own, whose processes get ENOMEM and are not killed.
package final class MemoryGroup {
  private static let root = "/sys/fs/cgroup/memory"
  package let path: String

  package static let isAvailable = FileSystem.isReadWritable("\(root)/memory.limit_in_bytes")

  package init(limitByteCount: UInt64) throws {
    let digits = try RandomBytes.make(6).map { String($0, radix: 16) }.joined()
    path = "\(Self.root)/postcopy-e2e-\(digits)"
    try #require(unsafe mkdir(path, 0o755) == 0)
    try write("1", to: "memory.oom_control")
    try setLimit(byteCount: limitByteCount)
  }

  // Its processes are gone by now or are moved up with it.
  deinit { _ = unsafe rmdir(path) }

  /// Puts a command into the group before it begins.
  package var prefix: [String] {
    ["sh", "-c", "echo $$ > \(path)/cgroup.procs && exec \"$@\"", "sh"]
  }

  package func setLimit(byteCount: UInt64) throws {
    try write("\(byteCount)", to: "memory.limit_in_bytes")
  }

  private func write(_ text: String, to name: String) throws {
    let file = try OwnedDescriptor.open("\(path)/\(name)", flags: O_WRONLY)
    try file.writeAll(Array(text.utf8), atOffset: 0, operand: name)
  }
}
