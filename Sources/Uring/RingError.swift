internal import Glibc
public import System

/// Why a ring cannot be made or used.
public struct RingError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Which step failed.
  public enum Operation: String, Hashable, Sendable {
    /// Mapping the ring's memory.
    case memory = "mmap"
    /// io_uring_setup(2).
    case setup = "io_uring_setup"
    /// The kernel is too old for what we need.
    case features = "io_uring features"
    /// Limiting the ring to the operations that we use.
    case restrict = "io_uring_register(RESTRICTIONS)"
    /// Enabling the ring on its thread.
    case activate = "io_uring_register(ENABLE_RINGS)"
    /// io_uring_enter(2).
    case enter = "io_uring_enter"
  }

  /// Which step failed.
  public let operation: Operation
  /// The kernel's reason.
  public let errno: Errno

  init(operation: Operation, errno: Errno) {
    self.operation = operation
    self.errno = errno
  }

  /// One line with what an operator can do about it.
  public var description: String {
    let remedy = remedy
    return "\(operation.rawValue): \(errno)" + (remedy.isEmpty ? "" : "; \(remedy)")
  }

  private var remedy: String {
    switch (operation, errno.rawValue) {
    case (.setup, EPERM), (.setup, EACCES):
      switch Self.disabledSetting() {
      case "2": "io_uring is switched off: set kernel.io_uring_disabled=0"
      case "1":
        "io_uring is limited to kernel.io_uring_group and CAP_SYS_ADMIN: join that group, or set "
          + "kernel.io_uring_disabled=0"
      default:
        "a security policy forbids it (the seccomp profile of a container, SELinux): allow "
          + "io_uring_setup, io_uring_enter and io_uring_register"
      }
    case (.setup, ENOSYS):
      "the kernel has no io_uring, or a seccomp profile hides it: allow io_uring_setup, "
        + "io_uring_enter and io_uring_register"
    case (.setup, ENOMEM): "raise the limit of locked memory (ulimit -l), or free memory"
    case (.setup, EMFILE), (.setup, ENFILE): "raise the limit of open files (ulimit -n)"
    case (.setup, EINVAL), (.features, _): "Linux 6.1 or later is needed"
    default: ""
    }
  }

  /// kernel.io_uring_disabled, which kernels have since 6.6; empty when it cannot be read.
  private static func disabledSetting() -> String {
    do throws(SystemError) {
      let file = try OwnedDescriptor.open("/proc/sys/kernel/io_uring_disabled", flags: O_RDONLY)
      var digit: UInt8 = 0
      // unsafe: one byte is read into one byte.
      let count = unsafe read(file.rawValue, &digit, 1)
      return count == 1 ? String(UnicodeScalar(digit)) : ""
    } catch {
      // The setting only chooses between two sentences; without it the general one is right.
      return ""
    }
  }
}
