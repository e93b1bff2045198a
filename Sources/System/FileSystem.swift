internal import CLinux
internal import Glibc

/// Calls on paths: directories, small text files of the kernel, removal.
public enum FileSystem {
  /// Bounds what is read of a file in /proc, /sys or of our own: none that we ask for is larger.
  public static let maximumSmallFileByteCount = 1 << 20

  /// The whole of a small file. A longer one is EFBIG, and nothing of it is kept.
  public static func contents(
    ofSmallFile path: String, maximumByteCount: Int = maximumSmallFileByteCount
  ) throws(SystemError) -> [UInt8] {
    let file = try OwnedDescriptor.open(path, flags: O_RDONLY)
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = try file.read(into: &piece, operand: path)
      if count == 0 { return bytes }
      bytes.append(contentsOf: piece[..<count])
      guard bytes.count <= maximumByteCount else {
        throw SystemError("read", path, Errno(rawValue: EFBIG))
      }
    }
  }

  /// A small text file without the white space around it; nil when it cannot be read. For files of
  /// /proc and /sys whose absence is an answer too.
  public static func text(ofSmallFile path: String) -> String? {
    guard let bytes = try? contents(ofSmallFile: path) else { return nil }
    let isBlank = { (byte: UInt8) in byte <= 0x20 }
    let start = bytes.firstIndex { !isBlank($0) } ?? bytes.endIndex
    let end = bytes.lastIndex { !isBlank($0) }.map { $0 + 1 } ?? start
    return String(decoding: bytes[start..<end], as: UTF8.self)
  }

  /// Makes a directory and those above it that are missing; the last gets `permissions`, the ones
  /// above 0755 less the umask. One that exists is left as it is.
  public static func createDirectories(
    _ path: String, permissions: UInt32
  ) throws(SystemError) {
    if unsafe mkdir(path, permissions) == 0 { return }
    let reason = Errno.current
    if reason == .exists { return }
    guard reason == .noSuchEntry, let slash = path.lastIndex(of: "/"), slash > path.startIndex
    else { throw SystemError("mkdir", path, reason) }
    try createDirectories(String(path[..<slash]), permissions: 0o755)
    guard unsafe mkdir(path, permissions) == 0 || Errno.current == .exists else {
      throw SystemError("mkdir", path)
    }
  }

  /// Makes names created or removed in a directory survive a power loss.
  public static func synchronizeDirectory(_ path: String) throws(SystemError) {
    let directory = try OwnedDescriptor.open(path, flags: O_RDONLY | O_DIRECTORY)
    guard fsync(directory.rawValue) == 0 else { throw SystemError("fsync", path) }
  }

  /// Removes a file's name. A name that is gone already is fine.
  public static func removeFile(_ path: String) throws(SystemError) {
    guard unsafe unlink(path) == 0 || Errno.current == .noSuchEntry else {
      throw SystemError("unlink", path)
    }
  }

  /// Removes an empty directory. One that is gone already is fine.
  public static func removeDirectory(_ path: String) throws(SystemError) {
    guard unsafe rmdir(path) == 0 || Errno.current == .noSuchEntry else {
      throw SystemError("rmdir", path)
    }
  }

  /// Whether this process may read and write the file.
  public static func isReadWritable(_ path: String) -> Bool {
    unsafe access(path, R_OK | W_OK) == 0
  }

  /// Whether the file or directory lies on tmpfs, that is in memory.
  public static func isOnTmpfs(_ path: String) throws(SystemError) -> Bool {
    var status = statfs()
    guard unsafe statfs(path, &status) == 0 else { throw SystemError("statfs", path) }
    return UInt64(truncatingIfNeeded: status.f_type) == UInt64(clinux_tmpfs_magic)
  }

  /// Whether an open file lies on tmpfs; memfds of small pages do.
  public static func isOnTmpfs(
    _ descriptor: borrowing OwnedDescriptor
  ) throws(SystemError) -> Bool {
    var status = statfs()
    guard unsafe fstatfs(descriptor.rawValue, &status) == 0 else {
      throw SystemError("fstatfs", "\(descriptor.rawValue)")
    }
    return UInt64(truncatingIfNeeded: status.f_type) == UInt64(clinux_tmpfs_magic)
  }

  /// Bytes that an ordinary user may still write on the file system that holds `path`.
  public static func availableByteCount(_ path: String) throws(SystemError) -> UInt64 {
    var status = statfs()
    guard unsafe statfs(path, &status) == 0 else { throw SystemError("statfs", path) }
    return UInt64(status.f_bavail) * UInt64(max(status.f_bsize, 0))
  }
}
