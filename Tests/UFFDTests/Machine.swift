import Glibc
import Pages
import System
import Testing

@testable import UFFD

/// What this machine can do, so that a test that cannot run says why.
enum Machine {
  /// What the kernel offers; empty where userfaultfd is not allowed at all.
  static let features: UserfaultFeatures = (try? UserfaultDescriptor.offeredFeatures()) ?? []
  static let isPrivileged = geteuid() == 0
  /// Whether a few huge pages are free, after asking for them where we may.
  static let hasHugePages = reserveHugePages()

  /// The tests' own need at one time, and the most that this machine is asked to set aside.
  private static let neededHugePageCount = 24
  private static let maximumHugePageCount = 256

  private static func reserveHugePages() -> Bool {
    if freeHugePageCount() >= neededHugePageCount { return true }
    let path = "/proc/sys/vm/nr_hugepages"
    guard let reserved = readNumber(path) else { return false }
    let wanted = reserved + neededHugePageCount
    // Only ever raised: others on this machine may hold some.
    if wanted <= maximumHugePageCount,
      let file = try? OwnedDescriptor.open(path, flags: O_WRONLY)
    {
      let text = Array(String(wanted).utf8)
      _ = unsafe text.withUnsafeBytes { unsafe write(file.rawValue, $0.baseAddress, $0.count) }
    }
    return freeHugePageCount() >= neededHugePageCount
  }

  private static func freeHugePageCount() -> Int {
    let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
    guard let free = readNumber(directory + "free_hugepages"),
      let promised = readNumber(directory + "resv_hugepages")
    else { return 0 }
    // What others have mapped but not touched yet is theirs.
    return free - promised
  }

  private static func readNumber(_ path: String) -> Int? {
    guard let file = try? OwnedDescriptor.open(path, flags: O_RDONLY) else { return nil }
    var text = [UInt8](repeating: 0, count: 32)
    let count = unsafe text.withUnsafeMutableBytes {
      unsafe read(file.rawValue, $0.baseAddress, $0.count)
    }
    guard count > 0 else { return nil }
    return Int(String(decoding: text[..<count], as: UTF8.self).filter(\.isNumber))
  }
}

/// All tests of this module, one after another: they fork, watch their own threads wait, and share
/// a few huge pages.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: !Machine.features.isEmpty, "userfaultfd is not allowed for this user"))
struct UFFDTests {}
