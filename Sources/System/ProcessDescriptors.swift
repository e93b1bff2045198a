internal import Glibc

/// What another process has open.
public enum ProcessDescriptors {
  /// Whether a process may have its memory written unseen by whoever watches its page tables: it
  /// has a file open for direct I/O (O_DIRECT), or memory or files registered with io_uring, which
  /// is pinned, or not told here. Needs the right to trace it.
  public static func hasDirectIO(pid: Int32) throws(SystemError) -> Bool {
    let directory = "/proc/\(pid)/fdinfo"
    for name in try FileSystem.entryNames(ofDirectory: directory) {
      guard let text = FileSystem.text(ofSmallFile: "\(directory)/\(name)") else {
        // Closed meanwhile, or not to be read.
        if FileSystem.exists("\(directory)/\(name)") { return true }
        continue
      }
      if mayWriteUnseen(text) { return true }
    }
    return false
  }

  /// What fdinfo says: `flags:` and an octal number; of an io_uring `UserBufs:` and `UserFiles:`
  /// and how many there are.
  static func mayWriteUnseen(_ text: String) -> Bool {
    for line in text.split(separator: "\n") {
      let fields = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
      guard fields.count == 2 else { continue }
      switch fields[0] {
      case "flags:":
        guard let flags = Int32(fields[1], radix: 8) else { return true }
        if flags & Int32(O_DIRECT) != 0 { return true }
      case "UserBufs:", "UserFiles:": if fields[1] != "0" { return true }
      default: break
      }
    }
    return false
  }
}
