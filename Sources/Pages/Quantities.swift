/// The position of a page inside its region, counted in pages of that region's size.
@frozen
public struct PageIndex: RawRepresentable, Hashable, Comparable, Sendable {
  /// Pages from the start of the region.
  public let rawValue: UInt64

  /// The page that stands `rawValue` pages after the region's first.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// The page that stands `rawValue` pages after the region's first.
  @inlinable
  public init(_ rawValue: Int) { self.rawValue = UInt64(rawValue) }

  /// Whether the left one comes first.
  @inlinable
  public static func < (left: PageIndex, right: PageIndex) -> Bool {
    left.rawValue < right.rawValue
  }

  /// The page `count` pages further on.
  @inlinable
  public func advanced(by count: PageCount) -> PageIndex {
    PageIndex(rawValue: rawValue + count.rawValue)
  }

  /// How many pages lie in the half-open range from `self` to `end`.
  @inlinable
  public func distance(to end: PageIndex) -> PageCount {
    invariant(end >= self, "a page range ends at or after its start")
    return PageCount(rawValue: end.rawValue - rawValue)
  }
}

/// A number of pages, all of one region's size.
@frozen
public struct PageCount: RawRepresentable, Hashable, Comparable, Sendable {
  /// The number itself.
  public let rawValue: UInt64

  /// `rawValue` pages.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// `rawValue` pages; must not be negative.
  @inlinable
  public init(_ rawValue: Int) { self.rawValue = UInt64(rawValue) }

  /// No pages.
  @inlinable
  public static var zero: PageCount { PageCount(rawValue: 0) }

  /// Whether the left one comes first.
  @inlinable
  public static func < (left: PageCount, right: PageCount) -> Bool {
    left.rawValue < right.rawValue
  }

  /// The sum.
  @inlinable
  public static func + (left: PageCount, right: PageCount) -> PageCount {
    PageCount(rawValue: left.rawValue + right.rawValue)
  }

  /// The difference; the left one must be the larger.
  @inlinable
  public static func - (left: PageCount, right: PageCount) -> PageCount {
    PageCount(rawValue: left.rawValue - right.rawValue)
  }

  /// The bytes that this many pages of `size` take.
  @inlinable
  public func byteCount(of size: PageSize) -> ByteCount {
    ByteCount(rawValue: rawValue << UInt64(size.shift))
  }
}

/// A number of bytes.
@frozen
public struct ByteCount: RawRepresentable, Hashable, Comparable, Sendable {
  /// The number itself.
  public let rawValue: UInt64

  /// `rawValue` bytes.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// `rawValue` bytes; must not be negative.
  @inlinable
  public init(_ rawValue: Int) { self.rawValue = UInt64(rawValue) }

  /// No bytes.
  @inlinable
  public static var zero: ByteCount { ByteCount(rawValue: 0) }

  /// Whether the left one comes first.
  @inlinable
  public static func < (left: ByteCount, right: ByteCount) -> Bool {
    left.rawValue < right.rawValue
  }

  /// The sum.
  @inlinable
  public static func + (left: ByteCount, right: ByteCount) -> ByteCount {
    ByteCount(rawValue: left.rawValue + right.rawValue)
  }

  /// How many whole pages of `size` fit in; what is left over does not count.
  @inlinable
  public func wholePages(of size: PageSize) -> PageCount {
    PageCount(rawValue: rawValue >> UInt64(size.shift))
  }

  /// Whether it is a whole number of pages of `size`.
  @inlinable
  public func isMultiple(of size: PageSize) -> Bool {
    rawValue & (UInt64(size.byteCount) - 1) == 0
  }
}

/// The page sizes that a region may have. 1 GiB pages are refused: one fault would stall for a
/// second.
public enum PageSize: UInt32, CaseIterable, Hashable, Sendable {
  /// 4 KiB.
  case small = 4096
  /// 2 MiB, hugetlb.
  case huge = 2_097_152

  /// Bytes in one page.
  @inlinable
  public var byteCount: Int { Int(rawValue) }

  /// Base-2 logarithm of `byteCount`.
  @inlinable
  public var shift: Int { self == .small ? 12 : 21 }
}
