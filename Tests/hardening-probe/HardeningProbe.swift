internal import Glibc
internal import System

/// Hardens itself as a worker does, tries what must fail and what must work, says what came of it,
/// and waits to be looked at from outside until SIGTERM. For the tests of `WorkerHardening`.
@main
enum HardeningProbe {
  static func main() throws {
    let arguments = CommandLine.arguments.dropFirst()
    let kept: Set<Capability> =
      arguments.contains("--keep-none") ? [] : [.tracing, .priority, .memoryLocking]
    // Before any thread: they inherit what is blocked.
    let signals = try SignalSource()
    if arguments.contains("--thread-first") {
      // A thread that stays: it waits for a word that never comes.
      let never = try Mailbox<Bool>(capacity: 1)
      _ = try WorkerThread(name: "early") { _ = never.receive() }
    }
    let findings = WorkerHardening.apply(
      keeping: kept, filteringSystemCalls: !arguments.contains("--no-filter"))
    for finding in findings { say("finding \(finding.isDone) \(finding)") }
    // A thread that begins later is under the same rules.
    let tried = try Mailbox<String>(capacity: 32)
    let thread = try WorkerThread(name: "late") {
      for line in trials() { _ = tried.post(line) }
    }
    thread.join()
    while let line = tried.take() { say("late \(line)") }
    for line in trials() { say("main \(line)") }
    // What must not be seen to wait for its end by itself: an idle thread for the look from
    // outside.
    let done = try Mailbox<Bool>(capacity: 1)
    let idle = try WorkerThread(name: "idle") { _ = done.receive() }
    say("ready")
    _ = try Readiness.wait(for: [signals.descriptor.rawValue], until: nil)
    _ = done.post(true)
    idle.join()
  }

  private static func say(_ text: String) { StandardStream.output.write(text + "\n") }

  /// Each thing that is tried, with the error number that came, 0 for none.
  private static func trials() -> [String] {
    [
      "fork \(number { startProgram() })",
      "unshare \(number { unshare(CLONE_NEWUTS) })",
      "packet-socket \(number { socket(AF_PACKET, Int32(SOCK_RAW.rawValue), 0) })",
      "socket \(number { socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) })",
      "signal-to-other \(number { kill(getppid(), 0) })",
      "open \(number { unsafe open("/dev/null", O_RDONLY) })",
      "map \(number { mapped() })",
    ]
  }

  private static func number(_ call: () -> Int32) -> Int32 { call() >= 0 ? 0 : errno }

  private static func startProgram() -> Int32 {
    var pid = pid_t()
    // unsafe: an empty list of arguments, which lives through the call.
    var none: [UnsafeMutablePointer<CChar>?] = unsafe [nil]
    let result = unsafe posix_spawn(&pid, "/bin/true", nil, nil, &none, nil)
    guard result == 0 else {
      errno = result
      return -1
    }
    var status: Int32 = 0
    _ = unsafe waitpid(pid, &status, 0)
    return 0
  }

  private static func mapped() -> Int32 {
    do throws(SystemError) {
      _ = try PageBuffer(byteCount: 1 << 24)
      return 0
    } catch {
      errno = error.errno.rawValue
      return -1
    }
  }
}
