internal import CLinux
internal import Glibc

/// A file that holds a VM's memory, opened for reading only, and never read by a mapping.
public struct MemoryFile: ~Copyable, Sendable {
  /// What holds the file's pages; decides what an error of a read means.
  public enum Medium: Hashable, Sendable {
    /// tmpfs, or a memfd: pages of the host's memory.
    case sharedMemory
    /// hugetlbfs, or a memfd of huge pages.
    case hugePages
    /// A file system on a device or a network: the page cache is only a copy.
    case storage
  }

  /// What tells that nobody has changed a file.
  public struct State: Hashable, Sendable {
    /// Its length.
    public let byteCount: UInt64
    /// When it was last changed, in nanoseconds: by a call (write, truncate, fallocate), and on
    /// tmpfs and disks by the first store to a page through a mapping (`fault_dirty_shared_page`,
    /// Linux mm/memory.c). Links and unlinks do not move it, nor do stores to pages that are mapped
    /// writable already.
    public let modifiedNanoseconds: Int64
  }

  /// The path that it was opened by, for messages.
  public let path: String
  /// What holds its pages.
  public let medium: Medium
  /// The file system's block: the page size on hugetlbfs.
  public let blockByteCount: UInt64
  /// Identity, length and kind when it was opened.
  public let status: FileStatus
  /// For reads and seeks.
  public let descriptor: OwnedDescriptor

  /// Opens the file; works for `/proc/PID/fd/N` too, and then has a file position of its own.
  public static func open(_ path: String) throws(SystemError) -> MemoryFile {
    // Non-blocking, or opening a FIFO would wait for a writer; no meaning for regular files.
    let descriptor = try OwnedDescriptor.open(path, flags: O_RDONLY | O_NONBLOCK)
    let status = try FileStatus.of(descriptor)
    var system = statfs()
    guard unsafe fstatfs(descriptor.rawValue, &system) == 0 else {
      throw SystemError("fstatfs", path)
    }
    let medium: Medium =
      switch Int(system.f_type) {
      case clinux_tmpfs_magic: .sharedMemory
      case clinux_hugetlbfs_magic: .hugePages
      default: .storage
      }
    return MemoryFile(
      path: path, medium: medium, blockByteCount: UInt64(system.f_bsize), status: status,
      descriptor: descriptor)
  }

  private init(
    path: String, medium: Medium, blockByteCount: UInt64, status: FileStatus,
    descriptor: consuming OwnedDescriptor
  ) {
    self.path = path
    self.medium = medium
    self.blockByteCount = blockByteCount
    self.status = status
    self.descriptor = descriptor
  }

  /// Its length and time of change now. About 0.3 µs; allocates nothing.
  public borrowing func state() throws(Errno) -> State {
    var status = stat()
    guard unsafe fstat(descriptor.rawValue, &status) == 0 else { throw .current }
    return State(
      byteCount: UInt64(max(status.st_size, 0)),
      modifiedNanoseconds: Int64(status.st_mtim.tv_sec) * 1_000_000_000
        + Int64(status.st_mtim.tv_nsec))
  }
}
