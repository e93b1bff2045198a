internal import CLinux
internal import Glibc

/// A file descriptor that is closed exactly once, when its owner goes away.
public struct OwnedDescriptor: ~Copyable, Sendable {
  /// The number, for calls while the owner lives. Never close it.
  public let rawValue: Int32

  /// Takes over a descriptor that nobody else closes.
  public init(adopting rawValue: Int32) {
    self.rawValue = rawValue
  }

  deinit { _ = close(rawValue) }

  /// Gives the number away without closing it: the caller closes it from now on.
  public consuming func release() -> Int32 {
    let number = rawValue
    discard self
    return number
  }

  /// Whether it may read and write; never so of one that only names a file (O_PATH).
  public borrowing func isOpenForReadingAndWriting() throws(SystemError) -> Bool {
    let flags = clinux_fcntl_int(rawValue, F_GETFL, 0)
    guard flags >= 0 else { throw SystemError("fcntl(F_GETFL)", "\(rawValue)") }
    return flags & O_ACCMODE == O_RDWR
  }

  /// A second, close-on-exec descriptor of the same open file.
  public borrowing func duplicate() throws(SystemError) -> OwnedDescriptor {
    let copy = clinux_fcntl_int(rawValue, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else { throw SystemError("fcntl(F_DUPFD_CLOEXEC)", "\(rawValue)") }
    return OwnedDescriptor(adopting: copy)
  }
}

extension OwnedDescriptor {
  /// Opens a file, always close-on-exec. `flags` are open(2)'s, `mode` counts when it is created.
  public static func open(
    _ path: String, flags: Int32, mode: UInt32 = 0o600
  ) throws(SystemError) -> OwnedDescriptor {
    let number = unsafe clinux_open(path, flags | O_CLOEXEC, mode)
    guard number >= 0 else { throw SystemError("open", path) }
    return OwnedDescriptor(adopting: number)
  }

  /// A file in memory that has no name anywhere: memfd_create(2). `label` is what /proc shows.
  public static func memory(label: String) throws(SystemError) -> OwnedDescriptor {
    let number = unsafe clinux_memfd_create(label, UInt32(MFD_CLOEXEC))
    guard number >= 0 else { throw SystemError("memfd_create", label) }
    return OwnedDescriptor(adopting: number)
  }

  /// A descriptor that counts signals from other threads: eventfd(2), non-blocking.
  public static func event() throws(SystemError) -> OwnedDescriptor {
    let number = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
    guard number >= 0 else { throw SystemError("eventfd") }
    return OwnedDescriptor(adopting: number)
  }
}
