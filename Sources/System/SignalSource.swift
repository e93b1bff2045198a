internal import CLinux
internal import Glibc

/// The signals that a session answers.
public enum SessionSignal: Int32, CaseIterable, Hashable, Sendable {
  /// The terminal went away, or "read your configuration again": never ends a session.
  case hangUp = 1
  /// Control-C.
  case interrupt = 2
  /// A service manager's stop.
  case terminate = 15

  /// The name as kill(1) prints it.
  public var name: String {
    switch self {
    case .hangUp: "SIGHUP"
    case .interrupt: "SIGINT"
    case .terminate: "SIGTERM"
    }
  }
}

/// Signals as readable events of a control loop instead of interruptions of whatever runs.
///
/// Make it in main before any thread: threads inherit the blocked set, and one thread that does not
/// block SIGTERM would get it and die with the whole process. A child that is spawned inherits the
/// set as well and must clear it before exec.
public struct SignalSource: ~Copyable, Sendable {
  /// Readable while a signal is pending: for poll or a ring.
  public let descriptor: OwnedDescriptor

  /// Blocks SIGHUP, SIGINT and SIGTERM for this thread and those that it starts, and ignores
  /// SIGPIPE for the process: a peer that is gone is EPIPE on the call, not our end.
  public init() throws(SystemError) {
    var set = sigset_t()
    unsafe sigemptyset(&set)
    for signal in SessionSignal.allCases { unsafe sigaddset(&set, signal.rawValue) }
    let result = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    guard result == 0 else {
      throw SystemError("pthread_sigmask", "", Errno(rawValue: result))
    }
    Self.ignoreBrokenPipes()
    let number = unsafe signalfd(-1, &set, Int32(SFD_CLOEXEC) | Int32(SFD_NONBLOCK))
    guard number >= 0 else { throw SystemError("signalfd") }
    descriptor = OwnedDescriptor(adopting: number)
  }

  /// The next pending signal, nil when there is none. Never waits.
  public borrowing func next() throws(SystemError) -> SessionSignal? {
    var record = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    while true {
      // unsafe: the record is as large as read is told.
      let count = unsafe Glibc.read(descriptor.rawValue, &record, size)
      if count == size { return SessionSignal(rawValue: Int32(record.ssi_signo)) }
      switch Errno.current {
      case .tryAgain: return nil
      case .interrupted: continue
      default: throw SystemError("read", "signalfd")
      }
    }
  }

  /// Makes writes to a closed pipe or socket fail with EPIPE instead of ending the process.
  public static func ignoreBrokenPipes() { _ = signal(SIGPIPE, SIG_IGN) }
}
