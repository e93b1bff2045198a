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
    let pid = try ProcessSpawn(output: output.rawValue, error: error.rawValue).start(arguments)
    do throws(SystemError) {
      handle = try ProcessHandle.open(pid: pid)
    } catch {
      // Without a handle nobody could end it later.
      kill(pid, SIGKILL)
      _ = ProcessSpawn.reap(pid)
      throw error
    }
  }

  deinit {
    if ending.withLock({ $0 }) == nil {
      // It exists until we reap it, so the signal meets nobody else.
      try? handle.kill()
      _ = ProcessSpawn.reap(pid)
    }
  }

  /// Sends a signal; to one that has ended and was reaped, ESRCH.
  public func send(signal: Int32) throws(SystemError) { try handle.send(signal: signal) }

  /// Waits until it has ended, and reaps it; nil when the deadline comes first.
  public func waitForEnd(until deadline: Instant) -> Ending? {
    guard handle.waitUntilEnded(deadline: deadline) else { return nil }
    return ending.withLock { ending in
      if ending == nil { ending = ProcessSpawn.reap(pid) }
      return ending
    }
  }
}
