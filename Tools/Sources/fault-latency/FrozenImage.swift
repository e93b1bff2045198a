internal import CLinux
internal import Glibc
internal import System

/// The source's memory: a memfd in which each 8-byte word follows from a seed and its place, so
/// that any page can be checked without keeping a copy.
struct FrozenImage: ~Copyable {
  let byteCount: Int
  let seed: UInt64
  private let descriptor: OwnedDescriptor

  static let pageByteCount = 4096

  /// How another process opens it.
  var path: String { "/proc/\(getpid())/fd/\(descriptor.rawValue)" }

  init(byteCount: Int, seed: UInt64) throws {
    let number = unsafe clinux_memfd_create("fault-latency", UInt32(MFD_CLOEXEC))
    guard number >= 0 else { throw BenchmarkError.call("memfd_create") }
    let descriptor = OwnedDescriptor(adopting: number)
    guard ftruncate(number, byteCount) == 0 else { throw BenchmarkError.call("ftruncate") }
    let mapping = try MemoryMapping(sharing: descriptor, byteCount: byteCount)
    let words = unsafe mapping.bytes.assumingMemoryBound(to: UInt64.self)
    for index in 0..<words.count { unsafe words[index] = Self.word(index, seed: seed) }
    self.byteCount = byteCount
    self.seed = seed
    self.descriptor = descriptor
  }

  /// What stands in word `index` of the image: the seed's splitmix64 sequence, never all zero.
  static func word(_ index: Int, seed: UInt64) -> UInt64 {
    var mixed = seed &+ UInt64(truncatingIfNeeded: index) &* 0x9e37_79b9_7f4a_7c15
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
  }
}
