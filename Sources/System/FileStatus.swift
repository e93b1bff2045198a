internal import CLinux
internal import Glibc

/// What stat(2) tells about a file, as far as we ask.
public struct FileStatus: Hashable, Sendable {
  /// The device that holds it.
  public let device: UInt64
  /// Its number on that device: with `device`, the identity of the file whatever its name.
  public let inode: UInt64
  /// The permission bits, as in chmod(1).
  public let permissions: UInt32
  /// The user that owns it.
  public let ownerUser: UInt32
  /// Its length in bytes.
  public let byteCount: UInt64
  /// Bytes of storage that it has: on tmpfs and hugetlbfs its pages in memory or swap, those too
  /// that fallocate(2) has made and that read as zeros.
  public let allocatedByteCount: UInt64
  /// Whether it is a directory.
  public let isDirectory: Bool
  /// Whether it is a regular file (memfds and files of hugetlbfs are).
  public let isRegularFile: Bool

  private init(_ status: stat) {
    device = UInt64(status.st_dev)
    inode = UInt64(status.st_ino)
    permissions = status.st_mode & 0o7777
    ownerUser = status.st_uid
    byteCount = UInt64(max(status.st_size, 0))
    // stat(2): in units of 512 bytes whatever the file system's.
    allocatedByteCount = UInt64(max(status.st_blocks, 0)) * 512
    isDirectory = status.st_mode & S_IFMT == S_IFDIR
    isRegularFile = status.st_mode & S_IFMT == S_IFREG
  }

  /// The file that `path` names, behind symbolic links.
  public static func of(path: String) throws(SystemError) -> FileStatus {
    var status = stat()
    guard unsafe stat(path, &status) == 0 else { throw SystemError("stat", path) }
    return FileStatus(status)
  }

  /// The file that a descriptor stands for.
  public static func of(_ descriptor: borrowing OwnedDescriptor) throws(SystemError) -> FileStatus {
    var status = stat()
    guard unsafe fstat(descriptor.rawValue, &status) == 0 else {
      throw SystemError("fstat", "\(descriptor.rawValue)")
    }
    return FileStatus(status)
  }
}
