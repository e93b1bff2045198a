internal import CLinux
internal import Glibc

/// The processors of this host.
public enum HostProcessors {
  /// How many were online when it was asked first.
  public static let onlineCount = sysconf(Int32(_SC_NPROCESSORS_ONLN))

  /// On how many the calling thread may run; 1 where that cannot be told.
  public static func allowedCount() -> Int { max(1, Int(clinux_allowed_processor_count())) }

  /// Whether no more threads want to run at this moment, the caller among them, than the host has
  /// processors. Three system calls.
  public static func haveRoom() -> Bool {
    haveRoom(loadAverage: FileSystem.text(ofSmallFile: "/proc/loadavg"), onlineCount: onlineCount)
  }

  /// The fourth field of /proc/loadavg is "runnable/all" (proc(5)); where it cannot be read, nobody
  /// knows of any that wait.
  static func haveRoom(loadAverage: String?, onlineCount: Int) -> Bool {
    guard let fields = loadAverage?.split(separator: " "), fields.count >= 4,
      let runnable = fields[3].split(separator: "/").first.flatMap({ Int($0) })
    else { return true }
    return runnable <= onlineCount
  }
}
