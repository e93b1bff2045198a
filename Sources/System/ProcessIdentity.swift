internal import CLinux
internal import Glibc

/// One life of one process: a pid alone is used again, with its start time it is not.
public struct ProcessIdentity: Hashable, Sendable, CustomStringConvertible {
  /// The process id.
  public let pid: Int32
  /// When it started, in clock ticks since boot: field 22 of /proc/PID/stat.
  public let startTicks: UInt64

  /// The process that had that pid and started then.
  public init(pid: Int32, startTicks: UInt64) {
    self.pid = pid
    self.startTicks = startTicks
  }

  /// The process that has the pid now. ESRCH when there is none.
  public static func of(pid: Int32) throws(SystemError) -> ProcessIdentity {
    let path = "/proc/\(pid)/stat"
    let bytes: [UInt8]
    do throws(SystemError) {
      bytes = try FileSystem.contents(ofSmallFile: path)
    } catch {
      throw error.errno == .noSuchEntry ? SystemError("open", path, .noSuchProcess) : error
    }
    guard let ticks = startTicks(inStat: String(decoding: bytes, as: UTF8.self)) else {
      throw SystemError("read", path, .invalidArgument)
    }
    return ProcessIdentity(pid: pid, startTicks: ticks)
  }

  /// This process.
  public static func current() throws(SystemError) -> ProcessIdentity { try of(pid: getpid()) }

  /// Whether that very process still exists. A zombie does: its memory does not.
  public var isAlive: Bool { (try? Self.of(pid: pid)) == self }

  /// Field 22, counted behind the last ")": the command in field 2 may hold blanks and brackets.
  static func startTicks(inStat text: String) -> UInt64? {
    guard let bracket = text.lastIndex(of: ")") else { return nil }
    let fields = text[text.index(after: bracket)...].split(separator: " ")
    return fields.count > 19 ? UInt64(fields[19]) : nil
  }

  /// "pid 42 (started at tick 1234)".
  public var description: String { "pid \(pid) (started at tick \(startTicks))" }
}

/// Which boot of this host: process ids, tmpfs files and memfds mean nothing in another one.
public struct BootID: Hashable, Sendable, CustomStringConvertible {
  /// The kernel's UUID for this boot, 36 characters.
  public let text: String

  /// The boot of that UUID.
  public init(text: String) { self.text = text }

  /// The present boot.
  public static func current() throws(SystemError) -> BootID {
    let path = "/proc/sys/kernel/random/boot_id"
    guard let text = FileSystem.text(ofSmallFile: path), text.utf8.count == 36 else {
      throw SystemError("read", path, .noSuchEntry)
    }
    return BootID(text: text)
  }

  /// The UUID.
  public var description: String { text }
}
