internal import CLinux
internal import Glibc

/// What a descriptor is, and who else holds the same open file.
public enum DescriptorIdentity {
  /// What /proc calls a userfaultfd.
  private static let userfaultName = "anon_inode:[userfaultfd]"

  /// Whether a descriptor of this process is a userfaultfd.
  public static func isUserfault(_ descriptor: Int32) -> Bool {
    FileSystem.linkTarget("/proc/self/fd/\(descriptor)") == userfaultName
  }

  /// Whether the process `pid` holds a descriptor of the same open userfaultfd as `descriptor`
  /// here; its number there. Needs the right to ptrace the process: EPERM or EACCES otherwise.
  public static func numberOfUserfault(
    _ descriptor: borrowing OwnedDescriptor, heldBy pid: Int32
  ) throws(SystemError) -> Int32? {
    let ownPid = getpid()
    for number in try userfaultNumbers(of: pid)
    where pid != ownPid || number != descriptor.rawValue {
      let result = clinux_kcmp_file(ownPid, pid, UInt(descriptor.rawValue), UInt(number))
      if result == 0 { return number }
      // EBADF: the process closed it meanwhile.
      if result < 0, Errno.current.rawValue != EBADF {
        throw SystemError("kcmp", "pid \(pid), descriptor \(number)")
      }
    }
    return nil
  }

  /// The numbers of all userfaultfds that the process `pid` holds, in ascending order. Needs the
  /// right to ptrace the process: EACCES otherwise.
  public static func userfaultNumbers(of pid: Int32) throws(SystemError) -> [Int32] {
    let directory = "/proc/\(pid)/fd"
    return try FileSystem.entryNames(ofDirectory: directory).compactMap { name in
      FileSystem.linkTarget("\(directory)/\(name)") == userfaultName ? Int32(name) : nil
    }.sorted()
  }

  /// Whether two descriptors of this process are of one open file. False, too, where the kernel
  /// does not tell (kcmp(2) may be left out of it).
  public static func isSameOpenFile(_ left: Int32, _ right: Int32) -> Bool {
    clinux_kcmp_file(getpid(), getpid(), UInt(left), UInt(right)) == 0
  }
}
