import Glibc
import GuestKit
import System
package import Testing

/// The file of a disk for microvm, and a control group of version 1 in which reads of it are slow.
package final class ThrottledDisk {
  private static let root = "/sys/fs/cgroup/blkio"
  package let path: String
  private let group: String
  private let device: String

  /// Whether there is such a control group, and a block device with direct I/O to be slowed down.
  package static let isAvailable = (try? ThrottledDisk(readsPerSecond: 100)) != nil

  /// Of 1 MiB, from which whoever is in the group reads so many blocks a second.
  package init(readsPerSecond: Int) throws {
    let digits = try RandomBytes.make(6).map { String($0, radix: 16) }.joined()
    path = "/var/tmp/postcopy-e2e-\(digits).disk"
    group = "\(Self.root)/postcopy-e2e-\(digits)"
    try DiskBlock.makeFile(path: path, byteCount: 1 << 20)
    device = try Self.device(of: path)
    _ = try OwnedDescriptor.open(path, flags: O_RDONLY | O_DIRECT)
    try #require(unsafe mkdir(group, 0o755) == 0)
    try setReadsPerSecond(readsPerSecond)
  }

  // Its processes are gone by now.
  deinit {
    _ = unsafe unlink(path)
    _ = unsafe rmdir(group)
  }

  /// 0 for as many as go.
  package func setReadsPerSecond(_ count: Int) throws {
    let name = "\(group)/blkio.throttle.read_iops_device"
    let file = try OwnedDescriptor.open(name, flags: O_WRONLY)
    try file.writeAll(Array("\(device) \(count)".utf8), atOffset: 0, operand: name)
  }

  /// Puts a program into the group. Not before it is ready: what it reads of itself would be slow.
  package func slowDown(_ program: Program) throws {
    let name = "\(group)/cgroup.procs"
    let file = try OwnedDescriptor.open(name, flags: O_WRONLY)
    try file.writeAll(Array("\(program.pid)".utf8), atOffset: 0, operand: name)
  }

  /// The numbers of the whole disk that holds a file: a partition has no bound of its own.
  private static func device(of path: String) throws -> String {
    let stat = try Program("stat", ["stat", "--format", "%Hd:%Ld", path])
    try #require(try stat.end() == .exited(code: 0))
    let numbers = try #require(stat.lines.first)
    let place = "/sys/dev/block/\(numbers)"
    guard FileSystem.exists(place) else {
      throw HarnessError(description: "\(path) is on no block device")
    }
    guard FileSystem.exists("\(place)/partition") else { return numbers }
    let whole = FileSystem.text(ofSmallFile: "\(place)/../dev") ?? ""
    return String(whole.prefix { $0 != "\n" })
  }
}

extension Trait where Self == ConditionTrait {
  package static var needsThrottledDisk: Self {
    .enabled(
      if: ThrottledDisk.isAvailable,
      "needs /var/tmp on a block device and a writable control group blkio of version 1")
  }
}
