internal import Glibc

extension Errno {
  /// ETIMEDOUT: it did not happen in time.
  public static let timedOut = Errno(rawValue: ETIMEDOUT)
  /// ECONNREFUSED: nobody listens.
  public static let connectionRefused = Errno(rawValue: ECONNREFUSED)
  /// EROFS: the file system is mounted read-only.
  public static let readOnlyFileSystem = Errno(rawValue: EROFS)
  /// EDQUOT: the user's share of the file system is used up.
  public static let quotaExceeded = Errno(rawValue: EDQUOT)
  /// EFBIG: larger than a file may be.
  public static let fileTooLarge = Errno(rawValue: EFBIG)
  /// ENOSYS: the kernel was built without the call.
  public static let notImplemented = Errno(rawValue: ENOSYS)
  /// ENODEV: what the file was about is gone.
  public static let noDevice = Errno(rawValue: ENODEV)
  /// EBADMSG: what came is no message of the protocol.
  public static let badMessage = Errno(rawValue: EBADMSG)
}
