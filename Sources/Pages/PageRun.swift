/// Which region of an image, counted from 0 in the order of the image.
@frozen
public struct RegionIndex: RawRepresentable, Hashable, Comparable, Sendable {
  /// Regions before this one.
  public let rawValue: UInt16

  /// The region that `rawValue` regions precede.
  @inlinable
  public init(rawValue: UInt16) { self.rawValue = rawValue }

  /// The region that `rawValue` regions precede.
  @inlinable
  public init(_ rawValue: Int) { self.rawValue = UInt16(rawValue) }

  /// Whether the left one comes first.
  @inlinable
  public static func < (left: RegionIndex, right: RegionIndex) -> Bool {
    left.rawValue < right.rawValue
  }
}

/// The name of a page that both hosts share: never a host address.
@frozen
public struct PageID: Hashable, Sendable {
  /// The region that the page belongs to.
  public let region: RegionIndex
  /// Its place in that region.
  public let page: PageIndex

  /// The page at `page` in `region`.
  @inlinable
  public init(region: RegionIndex, page: PageIndex) {
    self.region = region
    self.page = page
  }
}

/// Pages that follow one another in one region.
@frozen
public struct PageRun: Hashable, Sendable {
  /// The region that all of them belong to.
  public let region: RegionIndex
  /// The first page.
  public let start: PageIndex
  /// How many pages; never zero in a run that is sent or installed.
  public let count: PageCount

  /// `count` pages from `start` on.
  @inlinable
  public init(region: RegionIndex, start: PageIndex, count: PageCount) {
    self.region = region
    self.start = start
    self.count = count
  }

  /// The run of one page.
  @inlinable
  public init(_ id: PageID) {
    self.init(region: id.region, start: id.page, count: PageCount(rawValue: 1))
  }

  /// The page behind the last one.
  @inlinable
  public var end: PageIndex { start.advanced(by: count) }
}
