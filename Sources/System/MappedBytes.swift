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

  /// Takes a mapping over.
  public init(_ mapping: consuming MemoryMapping) {
    byteCount = mapping.byteCount
    unsafe base = mapping.base
    self.mapping = mapping
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
