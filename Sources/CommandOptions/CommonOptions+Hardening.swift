public import System

// What a session's process gives up, decided in one place for both commands.
extension CommonOptions {
  /// What both sides need as long as they live, if they have it at all: to open memory and sockets
  /// of a VMM of another user, to look into it and to end it, to go before others, to lock memory.
  /// A VMM that root started has all capabilities, and tracing one takes as many or CAP_SYS_PTRACE.
  private static let everywhere: Set<Capability> = [
    .fileAccess, .fileSearch, .signals, .tracing, .priority, .memoryLocking,
  ]

  /// Gives up everything else, for good. Call it in main before anything starts a thread; what came
  /// of it is told once there is a console (`-v`).
  ///
  /// It stands before the set-up and not behind it, because threads begin with the capabilities of
  /// their maker, and nothing in a session's set-up takes more than its later life does: a lost
  /// link is dialled anew, memory is opened when it attaches.
  public func harden() -> [HardeningFinding] {
    Self.hardenWorker(filteringSystemCalls: !noSeccomp)
  }

  /// As `harden`, for `postcopyctl doctor`, which does it to itself to see what this host allows.
  public static func hardenWorker(filteringSystemCalls: Bool) -> [HardeningFinding] {
    // 1: io_uring is for administrators alone.
    let isRingRestricted =
      FileSystem.text(ofSmallFile: "/proc/sys/kernel/io_uring_disabled") == "1"
    let kept = everywhere.union([.lowPorts]).union(isRingRestricted ? [.administration] : [])
    return WorkerHardening.apply(keeping: kept, filteringSystemCalls: filteringSystemCalls) + [
      // Done by every ring when it is made; one that cannot be limited is not used.
      HardeningFinding(
        "io_uring", isDone: true, "each ring can poll, receive, send and cancel, nothing else")
    ]
  }
}
