internal import Glibc
public import Pages

/// Single bytes of a file that is mapped shared: they are in the file as soon as they are stored,
/// and outlive this process.
///
/// Not synchronised: whoever shares it among threads guards it.
@safe
public final class MappedBytes: @unchecked Sendable {
  private let mapping: MemoryMapping
  /// How many bytes.
  public let byteCount: Int
  @usableFromInline let base: UnsafeMutableRawPointer

  /// Maps the first `byteCount` bytes of the file, which must have them allocated.
  public init(
    sharing descriptor: borrowing OwnedDescriptor, byteCount: Int
  ) throws(SystemError) {
    mapping = try MemoryMapping(sharing: descriptor, byteCount: byteCount)
    self.byteCount = byteCount
    unsafe base = mapping.base
  }

  /// Makes a file of `byteCount` zeros, owned by this user alone, and maps it. EEXIST when there is
  /// one already. All its space is taken now: a file system that is full later on would be a
  /// SIGBUS.
  public static func createFile(
    at path: String, byteCount: Int
  ) throws(SystemError) -> MappedBytes {
    let file = try OwnedDescriptor.open(path, flags: O_RDWR | O_CREAT | O_EXCL)
    try file.reserve(byteCount: UInt64(byteCount), operand: path)
    return try MappedBytes(sharing: file, byteCount: byteCount)
  }

  /// The byte at a position below `byteCount`.
  @inlinable
  public subscript(position: Int) -> UInt8 {
    get {
      invariant(position >= 0 && position < byteCount, "a byte's position lies in the mapping")
      // unsafe: checked above; the mapping lives as long as self.
      return unsafe base.load(fromByteOffset: position, as: UInt8.self)
    }
    set {
      invariant(position >= 0 && position < byteCount, "a byte's position lies in the mapping")
      // unsafe: checked above; the mapping lives as long as self.
      unsafe base.storeBytes(of: newValue, toByteOffset: position, as: UInt8.self)
    }
  }
}
