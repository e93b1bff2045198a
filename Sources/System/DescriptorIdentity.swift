internal import CLinux
internal import Glibc

/// What a descriptor is, and who else holds the same open file.
public enum DescriptorIdentity {
  /// What /proc calls a userfaultfd.
  private static let userfaultName = "anon_inode:[userfaultfd]"

  /// Whether a descriptor of this process is a userfaultfd.
  public static func isUserfault(_ descriptor: Int32) -> Bool {
    linkTarget("/proc/self/fd/\(descriptor)") == userfaultName
  }

  /// Whether the process `pid` holds a descriptor of the same open userfaultfd as `descriptor`
  /// here; its number there. Needs the right to ptrace the process: EPERM or EACCES otherwise.
  public static func numberOfUserfault(
    _ descriptor: borrowing OwnedDescriptor, heldBy pid: Int32
  ) throws(SystemError) -> Int32? {
    let directory = "/proc/\(pid)/fd"
    let ownPid = getpid()
    guard let stream = unsafe opendir(directory) else { throw SystemError("opendir", directory) }
    // unsafe: opened above, closed here and nowhere else.
    defer { unsafe closedir(stream) }
    // unsafe: an entry is valid until the next readdir; its name is copied at once.
    while let entry = unsafe readdir(stream) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      guard let number = Int32(name), pid != ownPid || number != descriptor.rawValue,
        linkTarget("\(directory)/\(name)") == userfaultName
      else { continue }
      let result = clinux_kcmp_file(ownPid, pid, UInt(descriptor.rawValue), UInt(number))
      if result == 0 { return number }
      // EBADF: the process closed it meanwhile.
      if result < 0, Errno.current.rawValue != EBADF {
        throw SystemError("kcmp", "pid \(pid), descriptor \(number)")
      }
    }
    return nil
  }

  private static func linkTarget(_ path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: 256)
    // unsafe: the buffer is as long as the call is told.
    let count = unsafe buffer.withUnsafeMutableBytes {
      unsafe readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
    }
    return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
  }
}
