import Glibc
import Synchronization

/// Names of files that a target makes for one input.
enum ScratchFile {
  private static let count = Atomic<UInt64>(0)

  /// A name that no other call gets: the unit tests run several inputs at once.
  static func nextPath(_ kind: StaticString) -> String {
    let number = count.wrappingAdd(1, ordering: .relaxed).newValue
    return "/dev/shm/postcopy-fuzz-\(kind)-\(getpid())-\(number)"
  }
}
