internal import System
internal import UFFD

/// One thing about a host, what it means, and what to run when it is not as it should be.
public struct HostFinding: Hashable, Sendable {
  /// How good it is.
  public enum Verdict: String, Hashable, Sendable {
    /// As it should be.
    case good = "ok"
    /// It works, with less speed or fewer features.
    case limited
    /// Something cannot be done on this host.
    case missing
  }

  /// What was looked at.
  public var subject: String
  /// How good it is.
  public var verdict: Verdict
  /// What was found and what it means.
  public var text: String
  /// The line to run; nil when there is nothing to do.
  public var remedy: String?

  /// A finding with all its parts.
  public init(_ subject: String, _ verdict: Verdict, _ text: String, remedy: String? = nil) {
    self.subject = subject
    self.verdict = verdict
    self.text = text
    self.remedy = remedy
  }

  /// Findings as lines for people; each thing to do stands under its finding.
  public static func describe(_ findings: [HostFinding]) -> String {
    let width = findings.map(\.subject.count).max() ?? 0
    return findings.map { finding in
      let verdict = finding.verdict.rawValue
      var line = finding.subject + String(repeating: " ", count: width - finding.subject.count + 2)
      line += verdict + String(repeating: " ", count: 9 - verdict.count) + finding.text
      if let remedy = finding.remedy {
        line += "\n" + String(repeating: " ", count: width + 11) + "run: " + remedy
      }
      return line
    }.joined(separator: "\n")
  }
}

extension HostCapabilities {
  /// Every subject with its verdict, in a fixed order.
  public func findings() -> [HostFinding] {
    [
      HostFinding("kernel", .good, kernelRelease), userfaultfdFinding, dirtyTrackingFinding,
      poisonFinding, ioUringFinding, sharedMemoryFinding, hugePageFinding, memoryFinding,
      kvmFinding, priorityFinding, tracingFinding,
    ]
  }

  /// The findings as lines for people.
  public func describe() -> String { HostFinding.describe(findings()) }

  var userfaultfdFinding: HostFinding {
    switch userfaultfd {
    case .available(_, let throughDevice):
      return HostFinding(
        "userfaultfd", .good,
        throughDevice ? "through /dev/userfaultfd" : "by the system call")
    case .forbidden(let errno):
      return HostFinding(
        "userfaultfd", .missing,
        "not allowed for this user (\(errno)): it can be a source, not a destination",
        remedy: hasUserfaultfdDevice
          ? "sudo setfacl -m u:$USER:rw /dev/userfaultfd"
          : "sudo sysctl vm.unprivileged_userfaultfd=1")
    case .absent:
      return HostFinding(
        "userfaultfd", .missing,
        "this kernel was built without CONFIG_USERFAULTFD: it can be a source, not a destination")
    }
  }

  private var features: UserfaultFeatures {
    if case .available(let features, _) = userfaultfd { return features }
    return []
  }

  private var dirtyTrackingFinding: HostFinding {
    features.contains([.asynchronousWriteProtect, .writeProtectUnpopulated])
      ? HostFinding("dirty tracking", .good, "WP_ASYNC is there")
      : HostFinding(
        "dirty tracking", .limited, "needs Linux 6.7 and a userfaultfd: post-copy and quick only")
  }

  private var poisonFinding: HostFinding {
    features.contains(.poison)
      ? HostFinding("poisoned pages", .good, "UFFDIO_POISON is there")
      : HostFinding(
        "poisoned pages", .limited,
        "needs Linux 6.6 and a userfaultfd: a poisoned source page parks the migration")
  }

  var ioUringFinding: HostFinding {
    guard let ioUringError else { return HostFinding("io_uring", .good, "allowed") }
    if let ioUringDisabled, ioUringDisabled > 0 {
      return HostFinding(
        "io_uring", .missing, "kernel.io_uring_disabled is \(ioUringDisabled)",
        remedy: "sudo sysctl kernel.io_uring_disabled=0")
    }
    return HostFinding(
      "io_uring", .missing,
      ioUringError == .notImplemented
        ? "this kernel was built without it"
        : "not allowed here (\(ioUringError)): a container's seccomp filter forbids it, most likely"
    )
  }

  var sharedMemoryFinding: HostFinding {
    switch sharedMemoryHugePages {
    case nil, "never", "deny", "advise":
      return HostFinding(
        "huge shared memory", .good,
        "transparent_hugepage/shmem_enabled is \(sharedMemoryHugePages ?? "absent")")
    case .some(let word):
      return HostFinding(
        "huge shared memory", .missing,
        "transparent_hugepage/shmem_enabled is \(word): one page that is written makes 511 "
          + "neighbours present, and the guest would read zeros there",
        remedy: "echo never | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled")
    }
  }

  private var hugePageFinding: HostFinding {
    hugePageCount > 0
      ? HostFinding("2 MiB pages", .good, "\(freeHugePageCount) of \(hugePageCount) are free")
      : HostFinding(
        "2 MiB pages", .limited, "none are reserved: guests of 4 KiB pages only",
        remedy: "sudo sysctl vm.nr_hugepages=64")
  }

  private var memoryFinding: HostFinding {
    let mebibytes = { (count: UInt64) in "\(count >> 20) MiB" }
    guard let group = groupAvailableByteCount, group < availableByteCount else {
      return HostFinding("memory", .good, "\(mebibytes(availableByteCount)) available")
    }
    return HostFinding(
      "memory", .good,
      "\(mebibytes(group)) available under this control group's limit, "
        + "\(mebibytes(availableByteCount)) on the host")
  }

  private var kvmFinding: HostFinding {
    hasKVM
      ? HostFinding("KVM", .good, "/dev/kvm can be used")
      : HostFinding(
        "KVM", .limited,
        "/dev/kvm is missing or not allowed: test guests run as threads of a process",
        remedy: "sudo setfacl -m u:$USER:rw /dev/kvm")
  }

  private var priorityFinding: HostFinding {
    mayRaisePriority
      ? HostFinding("priority", .good, "urgent threads go first (SCHED_FIFO)")
      : HostFinding(
        "priority", .limited, "no CAP_SYS_NICE: urgent threads compete with all others")
  }

  private var tracingFinding: HostFinding {
    mayTrace
      ? HostFinding("other processes", .good, "their memory can be read (CAP_SYS_PTRACE)")
      : HostFinding(
        "other processes", .limited,
        "no CAP_SYS_PTRACE: \"--memory pid:\" works for this user's own processes at most")
  }
}
