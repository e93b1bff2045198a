import Glibc
import GuestKit
package import Session
internal import System
package import Testing

/// What this machine offers.
package enum Machine {
  package static let capabilities = HostCapabilities.probe()
  package static let hasUserfaultfd: Bool = {
    if case .available = capabilities.userfaultfd { return true }
    return false
  }()
  package static let hasKVM = TestMachine.isKVMAvailable
  package static let isRoot = geteuid() == 0
  /// Both sides of a small VM, a stage between them, in each of the test processes that run at the
  /// same time.
  fileprivate static let neededHugePageCount: UInt64 = 192
}

extension Trait where Self == ConditionTrait {
  /// Shared memory that may get transparent huge pages is neither seeded in place nor tracked.
  package static var needsSmallSharedPages: Self {
    let setting = FileSystem.text(
      ofSmallFile: "/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    return .enabled(
      if: setting.map { $0.contains("[never]") || $0.contains("[deny]") } ?? true,
      "needs shared memory without transparent huge pages (shmem_enabled: never)")
  }

  package static var needsHugePages: Self {
    let needed = Machine.neededHugePageCount
    return .enabled(
      if: Machine.capabilities.freeHugePageCount >= needed, "needs \(needed) free huge pages")
  }
}
