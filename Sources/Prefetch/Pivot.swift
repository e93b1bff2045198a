internal import Pages

/// A fault and the bubble of sent pages around it; all positions are flat indices.
///
/// ```
///   regionStart ≤ backwardEdge ≤ blockStart ≤ fault < blockEnd ≤ forwardEdge ≤ regionEnd
/// ```
struct Pivot: Sendable {
  /// Counts up with each pivot: the smallest is the oldest.
  let age: UInt64
  /// Whether the fault's block may still have pages that nobody has claimed.
  private(set) var hasBlock: Bool

  private let region: RegionIndex
  private let regionStart: Int
  private let regionEnd: Int
  private let faultStart: Int
  private let faultEnd: Int
  private let blockStart: Int
  private let blockEnd: Int
  private let stepPageCount: Int
  /// The next page to push forward; everything from the fault up to it is claimed.
  private var forwardEdge: Int
  /// The page behind the next one to push backward.
  private var backwardEdge: Int
  private var growsForward = true
  private var growsBackward = true
  private var isBackwardsTurn = false

  /// A pivot at a demand for `run`, which must exist in `layout`.
  init(_ run: PageRun, in layout: ImageLayout, age: UInt64) {
    let region = layout.regions[Int(run.region.rawValue)]
    let fault = layout.flatRange(of: run)
    let step = PrefetchStep.pageCount(of: region.pageSize)
    self.age = age
    self.region = run.region
    self.stepPageCount = step
    self.faultStart = fault.lowerBound
    self.faultEnd = fault.upperBound
    self.regionStart = fault.lowerBound - Int(run.start.rawValue)
    self.regionEnd = regionStart + Int(region.pageCount.rawValue)
    // The block is aligned in the region, rounded down and up to whole steps.
    let firstPage = fault.lowerBound - regionStart
    let endPage = fault.upperBound - regionStart
    self.blockStart = regionStart + firstPage / step * step
    self.blockEnd = min(regionEnd, regionStart + (endPage + step - 1) / step * step)
    self.forwardEdge = blockEnd
    self.backwardEdge = blockStart
    self.hasBlock = blockEnd - blockStart > fault.count
  }

  /// Whether either edge may still move.
  var isGrowing: Bool { hasBlock || growsForward || growsBackward }

  /// The next unclaimed pages of the fault's block, those behind the fault first.
  mutating func restOfBlock(_ claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun? {
    if let start = claimed.firstUnclaimed(from: faultEnd, before: blockEnd) {
      return forwardRun(from: start, before: blockEnd, claimed)
    }
    if let start = claimed.firstUnclaimed(from: blockStart, before: faultStart) {
      return forwardRun(from: start, before: faultStart, claimed)
    }
    hasBlock = false
    return nil
  }

  /// Moves one edge by a step, the two edges in turn; nil when neither can move any more.
  mutating func grow(_ claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun? {
    defer { isBackwardsTurn.toggle() }
    if isBackwardsTurn {
      if let run = growBackward(claimed) { return run }
      return growForward(claimed)
    }
    if let run = growForward(claimed) { return run }
    return growBackward(claimed)
  }

  private mutating func growForward(_ claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun?
  {
    guard growsForward else { return nil }
    guard forwardEdge < regionEnd, !claimed.isClaimed(forwardEdge) else {
      growsForward = false
      return nil
    }
    let run = forwardRun(
      from: forwardEdge, before: min(forwardEdge + stepPageCount, regionEnd), claimed)
    forwardEdge += Int(run.count.rawValue)
    return run
  }

  private mutating func growBackward(_ claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun?
  {
    guard growsBackward else { return nil }
    let limit = max(regionStart, backwardEdge - stepPageCount)
    var start = backwardEdge
    while start > limit, !claimed.isClaimed(start - 1) { start -= 1 }
    guard start < backwardEdge else {
      growsBackward = false
      return nil
    }
    let run = run(start..<backwardEdge)
    backwardEdge = start
    return run
  }

  /// From an unclaimed page up to the next claimed one or `limit`.
  private func forwardRun(
    from start: Int, before limit: Int, _ claimed: borrowing some ClaimedPages & ~Copyable
  ) -> PageRun {
    let limit = min(limit, start + stepPageCount)
    return run(start..<(claimed.firstClaimed(from: start + 1, before: limit) ?? limit))
  }

  private func run(_ pages: Range<Int>) -> PageRun {
    PageRun(
      region: region, start: PageIndex(pages.lowerBound - regionStart),
      count: PageCount(pages.count))
  }
}
