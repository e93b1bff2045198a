internal import CLinux

/// A piece of root's power that a thread can hold by itself: capabilities(7).
public struct Capability: RawRepresentable, Hashable, Sendable {
  /// The kernel's number.
  public let rawValue: Int32

  /// The capability of that number.
  public init(rawValue: Int32) { self.rawValue = rawValue }

  /// CAP_DAC_OVERRIDE: files of other users, whatever their modes say.
  public static let fileAccess = Capability(rawValue: CAP_DAC_OVERRIDE)
  /// CAP_DAC_READ_SEARCH: reading such files and directories.
  public static let fileSearch = Capability(rawValue: CAP_DAC_READ_SEARCH)
  /// CAP_KILL: signals to processes of other users.
  public static let signals = Capability(rawValue: CAP_KILL)
  /// CAP_NET_BIND_SERVICE: ports below 1024.
  public static let lowPorts = Capability(rawValue: CAP_NET_BIND_SERVICE)
  /// CAP_IPC_LOCK: locked memory without a limit.
  public static let memoryLocking = Capability(rawValue: CAP_IPC_LOCK)
  /// CAP_SYS_PTRACE: the memory and descriptors of processes that have other users or more
  /// capabilities than we.
  public static let tracing = Capability(rawValue: CAP_SYS_PTRACE)
  /// CAP_SYS_ADMIN: much; for us, io_uring where the kernel keeps it for administrators.
  public static let administration = Capability(rawValue: CAP_SYS_ADMIN)
  /// CAP_SYS_NICE: threads that go before others.
  public static let priority = Capability(rawValue: CAP_SYS_NICE)

  /// Its place in the kernel's sets.
  var bit: UInt64 { 1 << UInt64(rawValue) }
}

/// The capabilities of the calling thread. A new thread begins with those of its maker.
struct CapabilitySets: Hashable {
  /// What counts when the kernel asks.
  var effective: UInt64
  /// What may be made effective.
  var permitted: UInt64
  /// What some programs get when this process starts them.
  var inheritable: UInt64

  /// Those of the calling thread.
  static func current() throws(SystemError) -> CapabilitySets {
    var sets = CapabilitySets(effective: 0, permitted: 0, inheritable: 0)
    // unsafe: three numbers to write, for the length of the call.
    guard unsafe clinux_capget(&sets.effective, &sets.permitted, &sets.inheritable) == 0 else {
      throw SystemError("capget")
    }
    return sets
  }

  /// Makes them those of the calling thread: never more than are permitted now.
  func apply() throws(SystemError) {
    guard clinux_capset(effective, permitted, inheritable) == 0 else { throw SystemError("capset") }
  }

  /// Keeps `kept` alone, in both sets that count, and hands nothing on.
  func limited(to kept: UInt64) -> CapabilitySets {
    CapabilitySets(effective: permitted & kept, permitted: permitted & kept, inheritable: 0)
  }
}
