internal import Glibc
public import System
public import UFFD

/// What this host can do for a migration: facts, looked up once at the start.
public struct HostCapabilities: Hashable, Sendable {
  /// How userfaultfd can be had.
  public enum Userfaultfd: Hashable, Sendable {
    /// It works; through /dev/userfaultfd, or by the system call.
    case available(UserfaultFeatures, throughDevice: Bool)
    /// The kernel has it, and this user may not use it.
    case forbidden(Errno)
    /// The kernel was built without it.
    case absent
  }

  /// "6.1.0-28-amd64".
  public var kernelRelease: String
  /// Whether we may have a userfaultfd.
  public var userfaultfd: Userfaultfd
  /// Whether /dev/userfaultfd exists, usable or not.
  public var hasUserfaultfdDevice: Bool
  /// Why io_uring is not to be had; nil when it is.
  public var ioUringError: Errno?
  /// /proc/sys/kernel/io_uring_disabled, where the kernel has it.
  public var ioUringDisabled: UInt64?
  /// Whether virtual machines can be run with /dev/kvm.
  public var hasKVM: Bool
  /// The chosen word of transparent_hugepage/shmem_enabled; nil without transparent huge pages.
  public var sharedMemoryHugePages: String?
  /// Huge pages of 2 MiB that exist.
  public var hugePageCount: UInt64
  /// Those that are free and not reserved.
  public var freeHugePageCount: UInt64
  /// Memory that can be had without swapping.
  public var availableByteCount: UInt64
  /// What our own control group leaves of it; nil without a limit.
  public var groupAvailableByteCount: UInt64?
  /// Whether this process may give a thread precedence (CAP_SYS_NICE).
  public var mayRaisePriority: Bool
  /// Whether it may reach into other processes (CAP_SYS_PTRACE).
  public var mayTrace: Bool

  /// Looks everything up. Makes and closes one userfaultfd and one io_uring.
  public static func probe() -> HostCapabilities { probe(HostFiles()) }

  static func probe(_ files: HostFiles) -> HostCapabilities {
    let capabilities =
      files.value(of: "CapEff", in: "/proc/self/status").flatMap { UInt64($0, radix: 16) } ?? 0
    let hugePages = "/sys/kernel/mm/hugepages/hugepages-2048kB"
    let free = files.number("\(hugePages)/free_hugepages") ?? 0
    let reserved = files.number("\(hugePages)/resv_hugepages") ?? 0
    return HostCapabilities(
      kernelRelease: files.text("/proc/sys/kernel/osrelease") ?? "unknown",
      userfaultfd: probeUserfaultfd(),
      hasUserfaultfdDevice: (try? FileStatus.of(path: "/dev/userfaultfd")) != nil,
      ioUringError: HostProbe.ioUringError(),
      ioUringDisabled: files.number("/proc/sys/kernel/io_uring_disabled"),
      hasKVM: FileSystem.isReadWritable("/dev/kvm"),
      sharedMemoryHugePages: files.choice("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
      hugePageCount: files.number("\(hugePages)/nr_hugepages") ?? 0,
      freeHugePageCount: free - min(free, reserved),
      availableByteCount: files.memoryByteCount("MemAvailable") ?? 0,
      groupAvailableByteCount:
        CgroupMemory.tightest(ofPID: nil, files: files)?.availableByteCount,
      mayRaisePriority: capabilities & 1 << Capability.niceness != 0,
      mayTrace: capabilities & 1 << Capability.tracing != 0)
  }

  private static func probeUserfaultfd() -> Userfaultfd {
    do throws(UFFDError) {
      let features = try UserfaultDescriptor.offeredFeatures()
      return .available(
        features, throughDevice: FileSystem.isReadWritable("/dev/userfaultfd"))
    } catch {
      return error.errno == .notImplemented ? .absent : .forbidden(error.errno)
    }
  }

  /// Bits of CapEff, from <linux/capability.h>.
  private enum Capability {
    static let tracing: UInt64 = 19
    static let niceness: UInt64 = 23
  }
}
