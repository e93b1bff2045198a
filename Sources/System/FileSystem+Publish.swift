internal import CLinux
internal import Glibc

extension FileSystem {
  /// Gives a finished file its final name in one step, durably; a name that is taken is EEXIST and
  /// both files stay as they are. Both names lie in one directory.
  public static func publish(_ temporary: String, as path: String) throws(SystemError) {
    let flags = UInt32(bitPattern: Int32(RENAME_NOREPLACE))
    if unsafe renameat2(AT_FDCWD, temporary, AT_FDCWD, path, flags) != 0 {
      let reason = Errno.current
      // EINVAL: the file system cannot rename without replacing. A second name is never put in
      // another's place either, and the first one can then go.
      guard reason == .invalidArgument else { throw SystemError("rename", path, reason) }
      guard unsafe link(temporary, path) == 0 else { throw SystemError("link", path) }
      try removeFile(temporary)
    }
    try synchronizeDirectory(directory(of: path))
  }

  /// Whether the name is taken, be it by a symbolic link to nothing.
  public static func exists(_ path: String) -> Bool {
    var status = stat()
    return unsafe lstat(path, &status) == 0
  }

  /// The directory that a path's last part is in.
  public static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }
}
