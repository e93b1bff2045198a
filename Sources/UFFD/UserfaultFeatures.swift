internal import CLinux

/// What a kernel's userfaultfd can do, and what a descriptor was asked to do.
@frozen
public struct UserfaultFeatures: OptionSet, Hashable, Sendable {
  /// The kernel's bits.
  public let rawValue: UInt64

  /// The features of those bits.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }
}

extension UserfaultFeatures {
  /// Faults on write-protected pages (UFFD_FEATURE_PAGEFAULT_FLAG_WP).
  public static let writeProtectFaults = Self(rawValue: uffd_feature_pagefault_flag_wp)
  /// An event when the process forks (EVENT_FORK). Needs CAP_SYS_PTRACE.
  public static let forkEvents = Self(rawValue: uffd_feature_event_fork)
  /// An event when mremap(2) moves a range (EVENT_REMAP).
  public static let remapEvents = Self(rawValue: uffd_feature_event_remap)
  /// An event when pages are given back: MADV_DONTNEED, MADV_REMOVE (EVENT_REMOVE).
  public static let removeEvents = Self(rawValue: uffd_feature_event_remove)
  /// Missing faults on huge pages (MISSING_HUGETLBFS).
  public static let missingHugetlb = Self(rawValue: uffd_feature_missing_hugetlbfs)
  /// Missing faults on shared memory (MISSING_SHMEM).
  public static let missingSharedMemory = Self(rawValue: uffd_feature_missing_shmem)
  /// An event when a range is unmapped (EVENT_UNMAP).
  public static let unmapEvents = Self(rawValue: uffd_feature_event_unmap)
  /// SIGBUS in the faulting thread instead of a message (SIGBUS).
  public static let busErrors = Self(rawValue: uffd_feature_sigbus)
  /// The thread's id in each fault (THREAD_ID).
  public static let threadIDs = Self(rawValue: uffd_feature_thread_id)
  /// Minor faults on huge pages (MINOR_HUGETLBFS).
  public static let minorHugetlb = Self(rawValue: uffd_feature_minor_hugetlbfs)
  /// Minor faults on shared memory (MINOR_SHMEM).
  public static let minorSharedMemory = Self(rawValue: uffd_feature_minor_shmem)
  /// The faulting address itself instead of its page's (EXACT_ADDRESS).
  public static let exactAddresses = Self(rawValue: uffd_feature_exact_address)
  /// Write-protection of shared memory and huge pages (WP_HUGETLBFS_SHMEM).
  public static let writeProtectSharedMemory = Self(rawValue: uffd_feature_wp_hugetlbfs_shmem)
  /// Write-protection of private pages that are not there yet (WP_UNPOPULATED, Linux 6.4).
  public static let writeProtectUnpopulated = Self(rawValue: uffd_feature_wp_unpopulated)
  /// Pages that answer an access with SIGBUS (POISON, Linux 6.6).
  public static let poison = Self(rawValue: uffd_feature_poison)
  /// Write faults that the kernel resolves and notes by itself (WP_ASYNC, Linux 6.7).
  public static let asynchronousWriteProtect = Self(rawValue: uffd_feature_wp_async)
  /// Moving pages inside one process (MOVE, Linux 6.8).
  public static let move = Self(rawValue: uffd_feature_move)

  /// All that this code has a name for.
  public static let known = Self(rawValue: uffd_features_6_18)
}

extension UserfaultFeatures: CustomStringConvertible {
  /// The kernel's names of the bits, joined by "|"; bits that we have no name for as a number.
  public var description: String {
    let names: [(Self, String)] = [
      (.writeProtectFaults, "PAGEFAULT_FLAG_WP"), (.forkEvents, "EVENT_FORK"),
      (.remapEvents, "EVENT_REMAP"), (.removeEvents, "EVENT_REMOVE"),
      (.missingHugetlb, "MISSING_HUGETLBFS"), (.missingSharedMemory, "MISSING_SHMEM"),
      (.unmapEvents, "EVENT_UNMAP"), (.busErrors, "SIGBUS"), (.threadIDs, "THREAD_ID"),
      (.minorHugetlb, "MINOR_HUGETLBFS"), (.minorSharedMemory, "MINOR_SHMEM"),
      (.exactAddresses, "EXACT_ADDRESS"), (.writeProtectSharedMemory, "WP_HUGETLBFS_SHMEM"),
      (.writeProtectUnpopulated, "WP_UNPOPULATED"), (.poison, "POISON"),
      (.asynchronousWriteProtect, "WP_ASYNC"), (.move, "MOVE"),
    ]
    var parts = names.filter { contains($0.0) }.map { $0.1 }
    let unknown = subtracting(.known)
    if !unknown.isEmpty { parts.append("0x" + String(unknown.rawValue, radix: 16)) }
    return parts.isEmpty ? "none" : parts.joined(separator: "|")
  }
}
