internal import Glibc
public import Pages

extension ChildProcess {
  /// Where a child finds the descriptor that it was passed.
  public static let passedDescriptorNumber: Int32 = 3
}

/// A child that outlives whoever started it: nothing ends it when the value goes away or when this
/// process dies.
///
/// It runs in a session of its own, so that a terminal's ^C, ^Z and hang-up reach the parent alone,
/// which forwards what is meant for it. The signals of `SessionSignal` are blocked from its first
/// moment on: one that comes before it has its `SignalSource` waits there and ends nothing.
public final class WorkerProcess: Sendable {
  /// Which process it is, to poll for its end.
  public let handle: ProcessHandle
  private let ending = Lock<ChildProcess.Ending?>(nil)

  /// Starts `executable` under the name `arguments[0]`, with this process's output streams, or none
  /// if it is silent, and `passed` as descriptor 3.
  public init(
    executable: String, arguments: [String], passing passed: borrowing OwnedDescriptor,
    isSilent: Bool = false
  ) throws(SystemError) {
    var spawn = ProcessSpawn()
    spawn.passed = passed.rawValue
    spawn.blockedSignals = SessionSignal.allCases.map(\.rawValue)
    spawn.startsSession = true
    let pid: Int32
    if isSilent {
      let nowhere = try OwnedDescriptor.open("/dev/null", flags: O_WRONLY)
      spawn.output = nowhere.rawValue
      spawn.error = nowhere.rawValue
      pid = try spawn.start(arguments, executable: executable)
    } else {
      pid = try spawn.start(arguments, executable: executable)
    }
    do throws(SystemError) {
      handle = try ProcessHandle.open(pid: pid)
    } catch {
      // Without a handle nobody could tell when it ends.
      kill(pid, SIGKILL)
      _ = ProcessSpawn.reap(pid)
      throw error
    }
  }

  /// Waits until it has ended, and reaps it; nil when the deadline comes first, or when somebody
  /// else has reaped it.
  public func waitForEnd(until deadline: Instant) -> ChildProcess.Ending? {
    guard handle.waitUntilEnded(deadline: deadline) else { return nil }
    return ending.withLock { ending in
      if ending == nil { ending = ProcessSpawn.reap(handle.identity.pid) }
      return ending
    }
  }
}
