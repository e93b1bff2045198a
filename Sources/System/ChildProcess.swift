internal import Glibc
public import Pages

/// A program that this process started: ended and reaped when the value goes away, so that nothing
/// outlives whoever started it.
///
/// The child starts like one of a fresh shell: no signal is blocked or ignored, whatever
/// `SignalSource` did here; it reads nothing; it has the two output streams and no other descriptor
/// of ours.
public final class ChildProcess: Sendable {
  /// How a process ended.
  public enum Ending: Hashable, Sendable, CustomStringConvertible {
    /// It returned that exit code.
    case exited(code: Int32)
    /// That signal ended it.
    case killed(signal: Int32)

    /// "exit code 10", "signal 9".
    public var description: String {
      switch self {
      case .exited(let code): "exit code \(code)"
      case .killed(let signal): "signal \(signal)"
      }
    }
  }

  /// Its process id; stays ours, whatever it does, until it is reaped.
  public var pid: Int32 { handle.identity.pid }
  /// Which process it is, to poll for its end too.
  public let handle: ProcessHandle
  private let ending = Lock<Ending?>(nil)

  /// Starts `arguments[0]`, looked up in PATH when it holds no slash, with both output streams
  /// going to these descriptors. ENOENT when there is no such program.
  public init(
    _ arguments: [String], output: borrowing OwnedDescriptor, error: borrowing OwnedDescriptor
  ) throws(SystemError) {
    let pid = try Self.spawn(arguments, output.rawValue, error.rawValue)
    do throws(SystemError) {
      handle = try ProcessHandle.open(pid: pid)
    } catch {
      // Without a handle nobody could end it later.
      kill(pid, SIGKILL)
      _ = Self.reap(pid)
      throw error
    }
  }

  deinit {
    if ending.withLock({ $0 }) == nil {
      // It exists until we reap it, so the signal meets nobody else.
      try? handle.kill()
      _ = Self.reap(pid)
    }
  }

  /// Sends a signal; to one that has ended and was reaped, ESRCH.
  public func send(signal: Int32) throws(SystemError) { try handle.send(signal: signal) }

  /// Waits until it has ended, and reaps it; nil when the deadline comes first.
  public func waitForEnd(until deadline: Instant) -> Ending? {
    guard handle.waitUntilEnded(deadline: deadline) else { return nil }
    return ending.withLock { ending in
      if ending == nil { ending = Self.reap(pid) }
      return ending
    }
  }

  /// The status is there or comes soon: the process has ended or was killed.
  private static func reap(_ pid: Int32) -> Ending? {
    var status: Int32 = 0
    while unsafe waitpid(pid, &status, 0) != pid {
      // EINTR: again. ECHILD: somebody else reaped it, and only they know how it ended.
      guard Errno.current == .interrupted else { return nil }
    }
    // The macros WIFSIGNALED and WEXITSTATUS, which Swift does not import: wait(2).
    let signal = status & 0x7F
    return signal == 0 ? .exited(code: status >> 8 & 0xFF) : .killed(signal: signal)
  }

  private static func spawn(
    _ arguments: [String], _ output: Int32, _ error: Int32
  ) throws(SystemError) -> Int32 {
    invariant(!arguments.isEmpty, "a program is started by its name")
    var actions = unsafe posix_spawn_file_actions_t()
    var attributes = posix_spawnattr_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawnattr_init(&attributes)
    defer {
      unsafe posix_spawn_file_actions_destroy(&actions)
      unsafe posix_spawnattr_destroy(&attributes)
    }
    unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
    unsafe posix_spawn_file_actions_adddup2(&actions, error, 2)
    unsafe posix_spawn_file_actions_addclosefrom_np(&actions, 3)
    var none = sigset_t()
    var all = sigset_t()
    unsafe sigemptyset(&none)
    unsafe sigfillset(&all)
    unsafe posix_spawnattr_setsigmask(&attributes, &none)
    unsafe posix_spawnattr_setsigdefault(&attributes, &all)
    unsafe posix_spawnattr_setflags(
      &attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF))
    // unsafe: the strings are ours until they are freed, behind the call that reads them.
    var strings = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { unsafe strings.withUnsafeBufferPointer { unsafe $0.forEach { unsafe free($0) } } }
    var pid = pid_t()
    let result = unsafe posix_spawnp(&pid, arguments[0], &actions, &attributes, &strings, environ)
    guard result == 0 else {
      throw SystemError("posix_spawn", arguments[0], Errno(rawValue: result))
    }
    return pid
  }
}
