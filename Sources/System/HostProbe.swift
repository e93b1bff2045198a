internal import CLinux

/// Questions to the kernel that only a try answers.
public enum HostProbe {
  /// Why an io_uring cannot be made; nil when it can. EPERM: forbidden by sysctl or seccomp.
  public static func ioUringError() -> Errno? {
    clinux_probe_io_uring() == 0 ? nil : .current
  }
}
