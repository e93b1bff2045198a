internal import Glibc
internal import Pages

/// What a new process of ours gets: descriptors, signals, session. Nothing else of ours goes along.
struct ProcessSpawn {
  /// Its standard output and error; nil leaves it ours.
  var output: Int32?
  var error: Int32?
  /// What it finds as `ChildProcess.passedDescriptorNumber`.
  var passed: Int32?
  /// Signals that wait until it takes them, from its first moment on.
  var blockedSignals: [Int32] = []
  /// Whether it begins a session of its own: no terminal sends it anything.
  var startsSession = false

  /// Starts `arguments[0]`, or `executable` under that name, looked up in PATH when it holds no
  /// slash. The process id must be reaped.
  func start(_ arguments: [String], executable: String? = nil) throws(SystemError) -> Int32 {
    invariant(!arguments.isEmpty, "a program is started by its name")
    let program = executable ?? arguments[0]
    var actions = unsafe posix_spawn_file_actions_t()
    var attributes = posix_spawnattr_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawnattr_init(&attributes)
    defer {
      unsafe posix_spawn_file_actions_destroy(&actions)
      unsafe posix_spawnattr_destroy(&attributes)
    }
    unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    if let output { unsafe posix_spawn_file_actions_adddup2(&actions, output, 1) }
    if let error { unsafe posix_spawn_file_actions_adddup2(&actions, error, 2) }
    let firstClosed = ChildProcess.passedDescriptorNumber + (passed == nil ? 0 : 1)
    if let passed {
      unsafe posix_spawn_file_actions_adddup2(
        &actions, passed, ChildProcess.passedDescriptorNumber)
    }
    unsafe posix_spawn_file_actions_addclosefrom_np(&actions, firstClosed)
    var blocked = sigset_t()
    var all = sigset_t()
    unsafe sigemptyset(&blocked)
    for signal in blockedSignals { unsafe sigaddset(&blocked, signal) }
    unsafe sigfillset(&all)
    unsafe posix_spawnattr_setsigmask(&attributes, &blocked)
    unsafe posix_spawnattr_setsigdefault(&attributes, &all)
    var flags = Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETSIGDEF)
    if startsSession { flags |= Int16(POSIX_SPAWN_SETSID) }
    unsafe posix_spawnattr_setflags(&attributes, flags)
    // unsafe: the strings are ours until they are freed, behind the call that reads them.
    var strings = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { unsafe strings.withUnsafeBufferPointer { unsafe $0.forEach { unsafe free($0) } } }
    var pid = pid_t()
    let result = unsafe posix_spawnp(&pid, program, &actions, &attributes, &strings, environ)
    guard result == 0 else {
      throw SystemError("posix_spawn", program, Errno(rawValue: result))
    }
    return pid
  }

  /// How the child ended: the status is there or comes soon, because it has ended or was killed.
  static func reap(_ pid: Int32) -> ChildProcess.Ending? {
    var status: Int32 = 0
    while unsafe waitpid(pid, &status, 0) != pid {
      // EINTR: again. ECHILD: somebody else reaped it, and only they know how it ended.
      guard Errno.current == .interrupted else { return nil }
    }
    // The macros WIFSIGNALED and WEXITSTATUS, which Swift does not import: wait(2).
    let signal = status & 0x7F
    return signal == 0 ? .exited(code: status >> 8 & 0xFF) : .killed(signal: signal)
  }
}
