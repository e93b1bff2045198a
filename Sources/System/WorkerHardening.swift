internal import CLinux
internal import Glibc

/// What a worker gives up before it touches a guest: mechanism only, in one call; its caller
/// decides what must be kept.
///
/// **Call it before the process has a second thread.** Capabilities belong to threads, and a new
/// one begins with those of its maker: dropped first, they are gone from all, without the signal to
/// every thread with which libc changes user ids. With other threads running, capabilities are left
/// alone and the finding says so.
///
/// The process stays *dumpable* (PR_SET_DUMPABLE): without that, no process of its own user may
/// compare or duplicate its descriptors (kcmp, pidfd_getfd), with which a parent and a recovery
/// find a userfaultfd again. What a dump would hold is kept out of it instead.
public enum WorkerHardening {
  /// Does everything that this process may, in an order in which no step takes away what a later
  /// one needs. What could not be done is a finding; nothing here fails a session.
  public static func apply(
    keeping kept: Set<Capability>, filteringSystemCalls: Bool = true
  ) -> [HardeningFinding] {
    var findings = [withoutCoreDumps(), lastForOOMKiller(), lockMemory(keeping: kept)]
    findings.append(limitCapabilities(to: kept))
    findings.append(withoutNewPrivileges())
    if filteringSystemCalls {
      findings.append(filterSystemCalls())
    } else {
      findings.append(
        HardeningFinding("system calls", isDone: false, "not filtered: switched off by an option"))
    }
    return findings
  }

  // MARK: Core dumps

  /// Two bolts. A limit of one byte, not of none: a dump that goes to a program (a "|" in
  /// core_pattern) ignores the limit 0, and 1 is the one value at which the kernel writes no dump
  /// to anybody (fs/coredump.c). And no kind of mapping belongs into a dump, so that one that is
  /// taken all the same (gcore, a changed limit) holds registers, not the guest's pages.
  private static func withoutCoreDumps() -> HardeningFinding {
    let subject = "core dumps"
    guard clinux_set_core_limit(1) == 0 else {
      return HardeningFinding(
        subject, isDone: false,
        "\(SystemError("setrlimit", "RLIMIT_CORE")); "
          + "a crash may write guest memory to disk")
    }
    if let error = write("0", to: "/proc/self/coredump_filter") {
      return HardeningFinding(
        subject, isDone: false,
        "none is written, but a debugger's would hold guest memory: \(error)")
    }
    return HardeningFinding(subject, isDone: true, "none is written, and none would hold memory")
  }

  // MARK: Out of memory

  /// One above the value that forbids killing altogether: a leak of ours must not take the host
  /// down, but anything else goes first.
  static let outOfMemoryScoreAdjustment = -999

  private static func lastForOOMKiller() -> HardeningFinding {
    let subject = "out of memory"
    let path = "/proc/self/oom_score_adj"
    let present = FileSystem.text(ofSmallFile: path).flatMap { Int($0) }
    let isLow = (present ?? 0) <= outOfMemoryScoreAdjustment
    if isLow || write("\(outOfMemoryScoreAdjustment)", to: path) == nil {
      return HardeningFinding(subject, isDone: true, "the kernel ends this process last")
    }
    return HardeningFinding(
      subject, isDone: false,
      "the kernel may end this process before others (oom_score_adj \(present ?? 0)): lowering it "
        + "takes CAP_SYS_RESOURCE",
      remedy: "in a systemd unit: OOMScoreAdjust=\(outOfMemoryScoreAdjustment)")
  }

  // MARK: Swap

  /// Everything of ours, now and later, stays in memory once it has been touched: a fault must not
  /// wait for our own page to come from a disk. Only without a limit: with one, a later mapping
  /// would fail for lack of lockable memory, on a path where nothing may fail.
  private static func lockMemory(keeping kept: Set<Capability>) -> HardeningFinding {
    let subject = "locked memory"
    var limit: UInt64 = 0
    // unsafe: a number to write, for the length of the call.
    if unsafe clinux_get_memory_lock_limit(&limit) != 0 { limit = 0 }
    if limit != clinux_no_limit, clinux_set_memory_lock_limit(clinux_no_limit) == 0 {
      limit = clinux_no_limit
    }
    let mayLockAll =
      kept.contains(.memoryLocking)
      && ((try? CapabilitySets.current())?.effective ?? 0) & Capability.memoryLocking.bit != 0
    guard limit == clinux_no_limit || mayLockAll else {
      return HardeningFinding(
        subject, isDone: false,
        "memory of ours may be swapped out, and a fault may wait for it: RLIMIT_MEMLOCK is "
          + "\(limit >> 10) KiB",
        remedy: "in a systemd unit: LimitMEMLOCK=infinity")
    }
    guard mlockall(MCL_CURRENT | MCL_FUTURE | Int32(MCL_ONFAULT)) == 0 else {
      return HardeningFinding(
        subject, isDone: false, "memory of ours may be swapped out: \(SystemError("mlockall"))")
    }
    return HardeningFinding(subject, isDone: true, "what was touched once is never swapped out")
  }

  // MARK: Capabilities and privileges

  private static func limitCapabilities(to kept: Set<Capability>) -> HardeningFinding {
    let subject = "capabilities"
    let threadCount = FileSystem.entryCount(ofDirectory: "/proc/self/task") ?? 0
    guard threadCount == 1 else {
      return HardeningFinding(
        subject, isDone: false, "\(threadCount) threads run already, and each has its own")
    }
    let bits = kept.reduce(0 as UInt64) { $0 | $1.bit }
    do throws(SystemError) {
      let before = try CapabilitySets.current()
      let isBounded = shrinkBoundingSet(to: bits)
      // Nothing can be ambient that is not inheritable; cleared by itself all the same.
      _ = clinux_prctl(PR_CAP_AMBIENT, UInt(PR_CAP_AMBIENT_CLEAR_ALL), 0)
      let after = before.limited(to: bits)
      try after.apply()
      guard try CapabilitySets.current() == after else {
        return HardeningFinding(
          subject, isDone: false, "the kernel kept others than were asked for")
      }
      let droppedCount = (before.permitted & ~after.permitted).nonzeroBitCount
      return HardeningFinding(
        subject, isDone: true,
        "\(droppedCount) dropped, \(after.permitted.nonzeroBitCount) kept"
          // Without CAP_SETPCAP the bounding set stays, and no_new_privs makes it void.
          + (isBounded ? "" : "; the bounding set is not ours to shrink"))
    } catch {
      return HardeningFinding(subject, isDone: false, "\(error)")
    }
  }

  /// What no program that this process starts can get back, whoever owns its file.
  private static func shrinkBoundingSet(to kept: UInt64) -> Bool {
    let last = FileSystem.text(ofSmallFile: "/proc/sys/kernel/cap_last_cap").flatMap { UInt64($0) }
    for number in 0...min(last ?? 40, 63) where kept & 1 << number == 0 {
      // EINVAL: this kernel has no such capability.
      guard
        clinux_prctl(PR_CAPBSET_DROP, UInt(number), 0) == 0 || Errno.current == .invalidArgument
      else { return false }
    }
    return true
  }

  private static func withoutNewPrivileges() -> HardeningFinding {
    let subject = "new privileges"
    guard clinux_prctl(PR_SET_NO_NEW_PRIVS, 1, 0) == 0 else {
      return HardeningFinding(subject, isDone: false, "\(SystemError("prctl"))")
    }
    return HardeningFinding(subject, isDone: true, "no program that is started can gain any")
  }

  private static func filterSystemCalls() -> HardeningFinding {
    let subject = "system calls"
    do throws(SystemError) {
      try SystemCallFilter(processID: getpid()).install()
    } catch {
      return HardeningFinding(subject, isDone: false, "not filtered: \(error)")
    }
    return HardeningFinding(
      subject, isDone: true, "\(SystemCallFilter.plainCalls.count) and a few forms of others pass")
  }

  /// Writes a setting of /proc; what went wrong.
  private static func write(_ text: String, to path: String) -> SystemError? {
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(path, flags: O_WRONLY)
      try file.writeAll(Array(text.utf8), atOffset: 0, operand: path)
      return nil
    } catch { return error }
  }
}

extension FileSystem {
  /// How many entries a directory has beside "." and ".."; nil when it cannot be read.
  static func entryCount(ofDirectory path: String) -> Int? {
    guard let directory = unsafe opendir(path) else { return nil }
    // unsafe: opened above, closed here and nowhere else.
    defer { unsafe closedir(directory) }
    var count = -2
    while unsafe readdir(directory) != nil { count += 1 }
    return count
  }
}
