internal import CLinux
internal import Glibc
internal import Pages

/// Descriptors that are taken from another process when all of ours that held them are gone.
public enum TakenDescriptor {
  /// Duplicates of the userfaultfds that the process holds, one for each open file, in the order of
  /// its numbers. Needs the right to ptrace it: EPERM or EACCES otherwise; ESRCH when it has ended.
  ///
  /// One that it closes between the look and the taking is left out, as is what took the number
  /// since: every duplicate is looked at again.
  public static func userfaultfds(
    of process: borrowing ProcessHandle
  ) throws(SystemError) -> DescriptorList {
    var taken = DescriptorList()
    for number in try DescriptorIdentity.userfaultNumbers(of: process.identity.pid) {
      guard let duplicate = try duplicate(number, of: process) else { continue }
      guard DescriptorIdentity.isUserfault(duplicate.rawValue) else { continue }
      let isKnown = (0..<taken.count).contains {
        DescriptorIdentity.isSameOpenFile(taken[$0], duplicate.rawValue)
      }
      if !isKnown { taken.append(duplicate) }
    }
    return taken
  }

  /// nil when the number is no descriptor any more.
  private static func duplicate(
    _ number: Int32, of process: borrowing ProcessHandle
  ) throws(SystemError) -> OwnedDescriptor? {
    do throws(SystemError) {
      return try process.duplicate(descriptorNumber: number)
    } catch {
      guard error.errno.rawValue == EBADF else { throw error }
      return nil
    }
  }
}

extension ProcessHandle {
  /// The process of a pidfd that somebody passed on. ESRCH when it has ended and was reaped: nobody
  /// can tell then which one it was.
  public static func adopt(
    _ descriptor: consuming OwnedDescriptor
  ) throws(SystemError) -> ProcessHandle {
    let path = "/proc/self/fdinfo/\(descriptor.rawValue)"
    let text = String(decoding: try FileSystem.contents(ofSmallFile: path), as: UTF8.self)
    let line = text.split(separator: "\n").first { $0.hasPrefix("Pid:") }
    guard let pid = line.flatMap({ Int32($0.dropFirst(4).drop { $0 == "\t" || $0 == " " }) })
    else { throw SystemError("read", path, .invalidArgument) }
    guard pid > 0 else { throw SystemError("read", path, .noSuchProcess) }
    let identity = try ProcessIdentity.of(pid: pid)
    // The pid could have been freed and used again before its start was read.
    guard clinux_pidfd_send_signal(descriptor.rawValue, 0) == 0 || Errno.current == .notPermitted
    else { throw SystemError("pidfd_send_signal", "pid \(pid)") }
    return ProcessHandle(identity: identity, descriptor: descriptor)
  }
}
