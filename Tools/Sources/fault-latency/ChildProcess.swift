internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// A program under measurement: started on one processor, ended in any case when its owner goes.
struct ChildProcess: ~Copyable {
  let pid: pid_t
  let name: String
  private let descriptor: OwnedDescriptor
  private var reaped: Usage?

  /// What a finished process took.
  struct Usage: Sendable {
    var exitStatus: Int32
    var processorSeconds: Double
  }

  /// Starts `arguments[0]` with both output streams going to `log`.
  ///
  /// The child inherits the processor that the calling thread is pinned to for that moment, and it
  /// is killed when this process dies (setpriv's pdeathsig), so that nothing outlives a benchmark
  /// that somebody ended.
  init(
    _ arguments: [String], processor: Int?, log: borrowing OwnedDescriptor
  ) throws(BenchmarkError) {
    let commandLine = ["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"] + arguments
    // unsafe: the strings are duplicated by us, and freed below after the spawn has read them.
    var vector = unsafe commandLine.map { unsafe strdup($0) }
    unsafe vector.append(nil)
    defer { unsafe vector.forEach { unsafe free($0) } }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_adddup2(&actions, log.rawValue, STDOUT_FILENO)
    unsafe posix_spawn_file_actions_adddup2(&actions, log.rawValue, STDERR_FILENO)
    if let processor { Processors.pin(to: processor) }
    defer { if processor != nil { Processors.unpin() } }
    var pid = pid_t()
    let result = unsafe posix_spawn(&pid, commandLine[0], &actions, nil, vector, Glibc.environ)
    guard result == 0 else {
      throw BenchmarkError("cannot start \(arguments[0]): \(Errno(rawValue: result))")
    }
    self.pid = pid
    self.name = arguments[0]
    self.descriptor = OwnedDescriptor(adopting: clinux_pidfd_open(pid, 0))
    self.reaped = nil
  }

  deinit {
    if reaped == nil {
      _ = kill(pid, SIGKILL)
      var status: Int32 = 0
      _ = unsafe waitpid(pid, &status, 0)
    }
  }

  /// Whether it ended within `milliseconds`; sleeps in the kernel meanwhile.
  borrowing func hasEnded(within milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: descriptor.rawValue, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&entry, 1, milliseconds) > 0
  }

  /// Waits until it has ended and answers what it took. An exit status other than 0 is an error.
  mutating func finish(deadline: Instant) throws(BenchmarkError) -> Usage {
    while !hasEnded(within: 20) {
      guard MonotonicClock.now() < deadline else {
        throw BenchmarkError("\(name) did not end in time")
      }
    }
    var status: Int32 = 0
    var usage = rusage()
    guard unsafe wait4(pid, &status, 0, &usage) == pid else { throw .call("wait4") }
    let result = Usage(
      exitStatus: status,
      processorSeconds: Self.seconds(usage.ru_utime) + Self.seconds(usage.ru_stime))
    reaped = result
    guard status == 0 else {
      throw BenchmarkError("\(name) ended with wait status \(status)")
    }
    return result
  }

  private static func seconds(_ time: timeval) -> Double {
    Double(time.tv_sec) + Double(time.tv_usec) / 1e6
  }
}

/// The processors that the calling thread may run on.
enum Processors {
  static let onlineCount = sysconf(Int32(_SC_NPROCESSORS_ONLN))

  static func pin(to processor: Int) { _ = clinux_pin_current_thread(UInt32(processor)) }

  static func unpin() {
    var set = cpu_set_t()
    // unsafe: the set is a plain array of bits; all ones means every processor there is.
    unsafe withUnsafeMutableBytes(of: &set) {
      _ = unsafe $0.initializeMemory(as: UInt8.self, repeating: 0xff)
    }
    _ = unsafe sched_setaffinity(0, MemoryLayout<cpu_set_t>.size, &set)
  }
}
