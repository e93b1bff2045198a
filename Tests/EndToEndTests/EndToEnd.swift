import Foundation
import Glibc
import GuestKit
import Session
import Testing

/// Real processes from end to end: page-server, postcopyd, two microvms, as an operator would start
/// them. One test at a time, because each has the whole machine in use.
@Suite(
  .serialized, .enabled(if: Machine.hasUserfaultfd, "needs userfaultfd with kernel-mode faults"))
enum EndToEnd {}

/// What this machine offers.
enum Machine {
  static let capabilities = HostCapabilities.probe()
  static let hasUserfaultfd: Bool = {
    if case .available = capabilities.userfaultfd { return true }
    return false
  }()
  static let hasKVM = TestMachine.isKVMAvailable
  static let isRoot = geteuid() == 0
  /// Both sides of a small VM.
  static let hasHugePages = capabilities.freeHugePageCount >= 32
}
