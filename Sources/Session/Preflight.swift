public import Pages
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

  /// Why this host cannot be the destination of an image; empty when it can. `vmmGroupAvailable` is
  /// what the VMM's control group leaves (`availableByteCount(inGroupOf:)`): the kernel charges
  /// installed pages to it. `stagesSeeds`: pages come before they can be installed, and wait in
  /// memory of our own, all of them at worst.
  public static func destinationRefusals(
    image: ImageLayout, memory: DestinationMemory, host: HostCapabilities,
    vmmGroupAvailable: UInt64?, stagesSeeds: Bool = false
  ) -> [Refusal] {
    var refusals: [Refusal] = []
    let refuse = { (finding: HostFinding) in
      refusals.append(
        Refusal(
          .unfit,
          "\(finding.subject): \(finding.text)" + (finding.remedy.map { "; run: \($0)" } ?? "")))
    }
    if host.userfaultfdFinding.verdict == .missing { refuse(host.userfaultfdFinding) }
    if host.ioUringFinding.verdict == .missing { refuse(host.ioUringFinding) }
    if memory == .sharedMemory, host.sharedMemoryFinding.verdict == .missing {
      refuse(host.sharedMemoryFinding)
    }
    if case .available(let features, _) = host.userfaultfd {
      let missing = neededFeatures(image: image, memory: memory).subtracting(features)
      if !missing.isEmpty {
        refuse(
          HostFinding(
            "userfaultfd", .missing, "this kernel (\(host.kernelRelease)) lacks \(missing)"))
      }
    }
    return refusals
      + memoryRefusals(
        image: image, host: host, vmmGroupAvailable: vmmGroupAvailable, stagesSeeds: stagesSeeds)
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

  private static func memoryRefusals(
    image: ImageLayout, host: HostCapabilities, vmmGroupAvailable: UInt64?, stagesSeeds: Bool
  ) -> [Refusal] {
    var smallBytes: UInt64 = 0
    var hugePages: UInt64 = 0
    for region in image.regions {
      switch region.pageSize {
      case .small: smallBytes += region.byteCount.rawValue
      case .huge: hugePages += region.pageCount.rawValue
      }
    }
    var refusals: [Refusal] = []
    // The VMM has mapped its huge pages already, and so reserved them: only a host that has fewer
    // in all cannot hold the guest.
    if hugePages > host.hugePageCount {
      refusals.append(
        Refusal(
          .unfit,
          "the guest needs \(hugePages) pages of 2 MiB and this host has \(host.hugePageCount); "
            + "run: sudo sysctl vm.nr_hugepages=\(hugePages)"))
    }
    let ownBytes =
      overheadByteCount + image.totalPageCount.rawValue
      + (stagesSeeds ? image.totalByteCount.rawValue : 0)
    let available = min(host.availableByteCount, vmmGroupAvailable ?? .max)
    let needed = smallBytes + (vmmGroupAvailable == nil ? ownBytes : 0)
    if needed > available || smallBytes + ownBytes > host.availableByteCount {
      refusals.append(
        Refusal(
          .unfit,
          "the guest needs up to \(smallBytes >> 20) MiB"
            + (stagesSeeds
              ? ", its seeds as much as all its memory (mode post-copy needs none), and "
              : " and ")
            + (vmmGroupAvailable == available && available < host.availableByteCount
              ? "the VMM's control group leaves \(available >> 20) MiB: raise its memory limit"
              : "this host has \(host.availableByteCount >> 20) MiB available: free memory first")))
    }
    if let own = host.groupAvailableByteCount, own < ownBytes {
      refusals.append(
        Refusal(
          .unfit,
          "postcopyd needs up to \(ownBytes >> 20) MiB of its own and its control group leaves "
            + "\(own >> 20) MiB: raise its memory limit"))
    }
    return refusals
  }
}
