public import Pages

/// An address in the process that made the descriptor: usually the VMM, not us. It is a number to
/// name a page by, and never a pointer that this process may follow.
@frozen
public struct HostAddress: RawRepresentable, Hashable, Comparable, Sendable {
  /// The address itself.
  public let rawValue: UInt64

  /// The address of that number.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// The address at which a pointer of this process points, for ranges that we registered here.
  @inlinable
  public init(_ pointer: UnsafeRawPointer) {
    self.rawValue = UInt64(UInt(bitPattern: pointer))
  }

  /// Whether the left one is lower.
  @inlinable
  public static func < (left: HostAddress, right: HostAddress) -> Bool {
    left.rawValue < right.rawValue
  }

  /// The address `byteCount` further up; must not pass the end of the address space.
  @inlinable
  public func advanced(by byteCount: ByteCount) -> HostAddress {
    HostAddress(rawValue: rawValue + byteCount.rawValue)
  }

  /// The bytes from here up to `end`, which must not be lower.
  @inlinable
  public func distance(to end: HostAddress) -> ByteCount {
    invariant(end >= self, "an address range ends at or after its start")
    return ByteCount(rawValue: end.rawValue - rawValue)
  }

  /// The first byte of the page of `size` that holds this address.
  @inlinable
  public func roundedDown(to size: PageSize) -> HostAddress {
    HostAddress(rawValue: rawValue & ~(UInt64(size.byteCount) - 1))
  }
}

/// Bytes that follow one another in the address space that a descriptor belongs to.
@frozen
public struct HostRange: Hashable, Sendable {
  /// The first address.
  public let start: HostAddress
  /// How many bytes.
  public let byteCount: ByteCount

  /// `byteCount` bytes from `start` on; must not pass the end of the address space.
  @inlinable
  public init(start: HostAddress, byteCount: ByteCount) {
    invariant(
      !start.rawValue.addingReportingOverflow(byteCount.rawValue).overflow,
      "a range ends inside the address space")
    self.start = start
    self.byteCount = byteCount
  }

  /// The bytes from `start` up to `end`, which must not be lower.
  @inlinable
  public init(start: HostAddress, end: HostAddress) {
    self.init(start: start, byteCount: start.distance(to: end))
  }

  /// The page of `size` that holds `address`.
  @inlinable
  public init(pageOf size: PageSize, holding address: HostAddress) {
    self.init(start: address.roundedDown(to: size), byteCount: ByteCount(size.byteCount))
  }

  /// The address behind the last byte.
  @inlinable
  public var end: HostAddress { start.advanced(by: byteCount) }

  /// Whether it holds the byte at `address`.
  @inlinable
  public func contains(_ address: HostAddress) -> Bool {
    address >= start && address < end
  }

  /// Whether both hold at least one byte in common.
  @inlinable
  public func overlaps(_ other: HostRange) -> Bool {
    start < other.end && other.start < end
  }

  /// What is left behind the first `byteCount` bytes; must not be more than there are.
  @inlinable
  public func dropping(first byteCount: ByteCount) -> HostRange {
    HostRange(start: start.advanced(by: byteCount), end: end)
  }
}
