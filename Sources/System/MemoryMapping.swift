internal import Glibc

/// Memory that this process mapped and unmaps exactly once: buffers, staging, shared state files.
/// Never a guest's source memory: the kernel copies that (see Documentation/design, and
/// `PresenceMapping`).
@safe
public struct MemoryMapping: ~Copyable, @unchecked Sendable {
  /// The first byte. Valid while the owner lives.
  public let base: UnsafeMutableRawPointer
  /// How many bytes are mapped.
  public let byteCount: Int

  /// Private zeroed memory, for buffers.
  public init(anonymousByteCount byteCount: Int) throws(SystemError) {
    try self.init(byteCount: byteCount, flags: MAP_PRIVATE | MAP_ANONYMOUS, descriptor: -1)
  }

  /// A file shared with whoever maps it too. The file must be at least `byteCount` long.
  public init(
    sharing descriptor: borrowing OwnedDescriptor, byteCount: Int
  ) throws(SystemError) {
    try self.init(
      byteCount: byteCount, flags: MAP_SHARED, descriptor: descriptor.rawValue)
  }

  private init(byteCount: Int, flags: Int32, descriptor: Int32) throws(SystemError) {
    let address = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, flags, descriptor, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError("mmap", "\(byteCount) bytes")
    }
    unsafe self.base = address
    self.byteCount = byteCount
  }

  // unsafe: base and byteCount are what mmap returned, and nobody else unmaps them.
  deinit { unsafe munmap(base, byteCount) }
}

extension MemoryMapping {
  /// The whole mapping, to read or write while the owner is borrowed.
  public var bytes: UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(start: base, count: byteCount)
  }
}
