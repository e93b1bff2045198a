internal import CLinux
internal import Glibc

/// A descriptor that this process was started with.
public enum InheritedDescriptor {
  /// Takes it over, close-on-exec from now on. EBADF when there is none of that number.
  public static func take(_ number: Int32) throws(SystemError) -> OwnedDescriptor {
    let flags = clinux_fcntl_int(number, F_GETFD, 0)
    guard flags >= 0, clinux_fcntl_int(number, F_SETFD, flags | FD_CLOEXEC) == 0 else {
      throw SystemError("fcntl(FD_CLOEXEC)", "\(number)")
    }
    return OwnedDescriptor(adopting: number)
  }
}
