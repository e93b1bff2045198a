import Glibc
import GuestKit
package import Session

/// What this machine offers.
package enum Machine {
  package static let capabilities = HostCapabilities.probe()
  package static let hasUserfaultfd: Bool = {
    if case .available = capabilities.userfaultfd { return true }
    return false
  }()
  package static let hasKVM = TestMachine.isKVMAvailable
  package static let isRoot = geteuid() == 0
  /// Both sides of a small VM.
  package static let hasHugePages = capabilities.freeHugePageCount >= 32
}
