public import Pages
internal import System
internal import UFFD
public import Wire

/// Whether a host can take, or give, the VM that is about to move. Pure; the facts are
/// `HostCapabilities`.
public enum Preflight {
  /// What our own process may need beside the guest's memory: buffers, rings, the Swift runtime;
  /// page states come on top.
  static let overheadByteCount: UInt64 = 64 << 20

  /// What a destination's memory is like.
  public enum DestinationMemory: Hashable, Sendable {
    /// Private anonymous memory.
    case privateMemory
    /// A memfd or a file on tmpfs.
    case sharedMemory
  }

  /// Free beside all that is foreseen: a host without any slack drops caches, swaps, and kills.
  public static let usualHeadroomByteCount: UInt64 = 256 << 20

  /// What speaks against a move among all that was looked at.
  public static func refusals(of findings: [HostFinding]) -> [Refusal] {
    findings.filter { $0.verdict == .missing }.map { finding in
      Refusal(
        .unfit,
        "\(finding.subject): \(finding.text)" + (finding.remedy.map { "; run: \($0)" } ?? ""))
    }
  }

  /// What this host is as the destination of an image, item by item. `vmmGroupAvailable` is what
  /// the VMM's control group leaves (`availableByteCount(inGroupOf:)`): the kernel charges
  /// installed pages to it. `stagesSeeds`: pages come before they can be installed, and wait in
  /// memory of our own, all of them at worst; false where they go into the VM's memory in place.
  /// `hasVMM`: the VMM is there, with its memory mapped. `headroomByteCount` of memory stay free
  /// beside all of it.
  public static func destinationFindings(
    image: ImageLayout, memory: DestinationMemory, host: HostCapabilities,
    vmmGroupAvailable: UInt64?, stagesSeeds: Bool, hasVMM: Bool = true,
    headroomByteCount: UInt64 = usualHeadroomByteCount
  ) -> [HostFinding] {
    var findings = [host.userfaultfdFinding, host.ioUringFinding]
    if memory == .sharedMemory { findings.append(host.sharedMemoryFinding) }
    if case .available(let features, _) = host.userfaultfd {
      let missing = neededFeatures(image: image, memory: memory).subtracting(features)
      findings.append(
        missing.isEmpty
          ? HostFinding("page sizes", .good, "userfaultfd serves this guest's")
          : HostFinding(
            "page sizes", .missing, "this kernel (\(host.kernelRelease)) lacks \(missing)"))
    }
    return findings
      + memoryFindings(
        image: image, host: host, vmmGroupAvailable: vmmGroupAvailable, stagesSeeds: stagesSeeds,
        hasVMM: hasVMM, headroomByteCount: headroomByteCount)
  }

  /// Whether a guest that has run there can run here.
  public static func processorFinding(
    here: ProcessorFeatures, there: ProcessorFeatures, mayLack: Bool
  ) -> HostFinding {
    let subject = "processor"
    guard !here.names.isEmpty, !there.names.isEmpty else {
      return HostFinding(subject, .limited, "what it can do is not known of both hosts")
    }
    let missing = here.missing(from: there)
    guard !missing.isEmpty else {
      return HostFinding(
        subject, .good, "all that the kernel names of what the guest may have seen is here as well")
    }
    let text = "this host's lacks what the guest may have seen: \(missing.joined(separator: ", "))"
    return mayLack
      ? HostFinding(subject, .limited, text)
      : HostFinding(
        subject, .missing,
        text + "; give the VM a processor model that both hosts have, or add --allow-fewer-features"
      )
  }

  /// Whether the journals, and the page states of so many pages, find room.
  public static func roomFindings(
    _ directory: StateDirectory, pageCount: PageCount?
  ) -> [HostFinding] {
    let runByteCount = (pageCount?.rawValue ?? 0) + journalByteCount
    return [
      roomFinding("room for journals", at: directory.statePath, byteCount: journalByteCount),
      roomFinding("room for page states", at: directory.runPath, byteCount: runByteCount),
    ]
  }

  /// Journals are some kilobytes; a file system that has not even this is full.
  private static let journalByteCount: UInt64 = 1 << 20

  private static func roomFinding(
    _ subject: String, at path: String, byteCount: UInt64
  ) -> HostFinding {
    var place = path
    var available = try? FileSystem.availableByteCount(place)
    // It may still have to be made.
    while available == nil, let slash = place.lastIndex(of: "/"), slash > place.startIndex {
      place = String(place[..<slash])
      available = try? FileSystem.availableByteCount(place)
    }
    guard let available else { return HostFinding(subject, .limited, "\(path) is not there yet") }
    return available < byteCount
      ? HostFinding(
        subject, .missing,
        "\(path) has \(available >> 10) KiB left of the \(byteCount >> 10) that are needed: "
          + "free some, or name another place")
      : HostFinding(subject, .good, "\(path) has \(available >> 20) MiB left")
  }

  /// Why this host cannot be the source; empty when it can. A source needs no userfaultfd.
  public static func sourceRefusals(
    readsOtherProcess: Bool, host: HostCapabilities
  ) -> [Refusal] {
    guard readsOtherProcess, !host.mayTrace else { return [] }
    return [
      Refusal(
        .unfit,
        "reading another process's memory needs CAP_SYS_PTRACE; run: sudo setcap "
          + "cap_sys_ptrace+ep $(command -v page-server), or use --memory file:PATH")
    ]
  }

  /// What the control groups over a process leave; nil without a limit.
  public static func availableByteCount(inGroupOf pid: Int32) -> UInt64? {
    CgroupMemory.tightest(ofPID: pid, files: HostFiles())?.availableByteCount
  }

  private static func neededFeatures(
    image: ImageLayout, memory: DestinationMemory
  ) -> UserfaultFeatures {
    var needed: UserfaultFeatures = [.removeEvents]
    for region in image.regions {
      switch (region.pageSize, memory) {
      case (.huge, _): needed.insert(.missingHugetlb)
      case (.small, .sharedMemory): needed.insert(.missingSharedMemory)
      case (.small, .privateMemory): break
      }
    }
    return needed
  }

  private static func hugePageFindings(
    _ hugePages: UInt64, _ host: HostCapabilities, hasVMM: Bool
  ) -> [HostFinding] {
    guard hugePages > 0 else { return [] }
    // A VMM that is there has mapped its huge pages already, and so reserved them: only a host that
    // has fewer in all cannot hold the guest.
    guard hugePages > (hasVMM ? host.hugePageCount : host.freeHugePageCount) else {
      return [
        HostFinding(
          "2 MiB pages", .good,
          "the guest needs \(hugePages), and \(host.freeHugePageCount) of \(host.hugePageCount) "
            + "are free")
      ]
    }
    let total = hasVMM ? hugePages : host.hugePageCount + hugePages - host.freeHugePageCount
    return [
      HostFinding(
        "2 MiB pages", .missing,
        "the guest needs \(hugePages) pages of 2 MiB and this host has \(host.hugePageCount), of "
          + "which \(host.freeHugePageCount) are free",
        remedy: "sudo sysctl vm.nr_hugepages=\(total)")
    ]
  }

  private static func memoryFindings(
    image: ImageLayout, host: HostCapabilities, vmmGroupAvailable: UInt64?, stagesSeeds: Bool,
    hasVMM: Bool, headroomByteCount: UInt64
  ) -> [HostFinding] {
    var smallBytes: UInt64 = 0
    var hugePages: UInt64 = 0
    for region in image.regions {
      switch region.pageSize {
      case .small: smallBytes += region.byteCount.rawValue
      case .huge: hugePages += region.pageCount.rawValue
      }
    }
    var findings = hugePageFindings(hugePages, host, hasVMM: hasVMM)
    let ownBytes =
      overheadByteCount + image.totalPageCount.rawValue
      + (stagesSeeds ? image.totalByteCount.rawValue : 0)
    let available = min(host.availableByteCount, vmmGroupAvailable ?? .max)
    let needed = smallBytes + (vmmGroupAvailable == nil ? ownBytes : 0)
    let needs =
      "the guest needs up to \(smallBytes >> 20) MiB"
      + (stagesSeeds
        ? ", its seeds as much as all its memory unless the VMM sends its file (mode post-copy "
          + "needs none), and " : " and ")
    if needed > available || smallBytes + ownBytes + headroomByteCount > host.availableByteCount {
      findings.append(
        HostFinding(
          "memory", .missing,
          needs
            + (vmmGroupAvailable == available && available < host.availableByteCount
              ? "the VMM's control group leaves \(available >> 20) MiB: raise its memory limit"
              : "this host has \(host.availableByteCount >> 20) MiB available, of which "
                + "\(headroomByteCount >> 20) are to stay free (--memory-headroom): free memory "
                + "first")))
    } else {
      findings.append(
        HostFinding(
          "memory", .good, needs + "this host has \(host.availableByteCount >> 20) MiB available"))
    }
    if let own = host.groupAvailableByteCount, own < ownBytes {
      findings.append(
        HostFinding(
          "control group", .missing,
          "postcopyd needs up to \(ownBytes >> 20) MiB of its own and its control group leaves "
            + "\(own >> 20) MiB: raise its memory limit"))
    }
    return findings
  }
}
