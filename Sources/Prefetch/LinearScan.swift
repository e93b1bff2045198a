public import Pages

/// Pushes the whole image in order, region after region, skipping what is claimed.
///
/// The floor that every other policy falls back to, and the one that they are measured against.
/// All steps together look at each word of the claim bitmap once, so that a step is O(1) amortised.
/// At the end it looks through the image once more from the start: a page must not be lost because
/// somebody gave a claim back.
public struct LinearScan: PrefetchPolicy {
  private let layout: ImageLayout
  private let pageCount: Int
  private var cursor = 0

  /// A scan that stands at the first page of `layout`.
  public init(layout: ImageLayout) {
    self.layout = layout
    self.pageCount = Int(layout.totalPageCount.rawValue)
  }

  /// Demands do not change the order.
  public mutating func noteDemand(_ run: PageRun) {}

  /// See `PrefetchPolicy`.
  public mutating func next(skipping claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun? {
    var found = claimed.firstUnclaimed(from: cursor, before: pageCount)
    if found == nil { found = claimed.firstUnclaimed(from: 0, before: cursor) }
    guard let start = found else {
      cursor = pageCount
      return nil
    }
    let id = layout.pageID(atFlatIndex: start)
    let region = layout.regions[Int(id.region.rawValue)]
    let regionEnd =
      start + Int(id.page.distance(to: PageIndex(Int(region.pageCount.rawValue))).rawValue)
    let limit = min(start + PrefetchStep.pageCount(of: region.pageSize), regionEnd)
    let end = claimed.firstClaimed(from: start + 1, before: limit) ?? limit
    cursor = end
    return PageRun(region: id.region, start: id.page, count: PageCount(end - start))
  }
}
