public import Pages

/// Grows bubbles of sent pages around the latest faults; when none can grow, scans the image.
///
/// After Hines and Gopalan, *Post-Copy Based Live Virtual Machine Migration Using Adaptive
/// Pre-Paging and Dynamic Self-Ballooning* (VEE 2009). A fault becomes a *pivot*. Around each pivot
/// the source pushes outwards, because what the guest touches next mostly lies near what it touched
/// last, on either side:
///
/// ```
///   sent by others   ◂── backward edge   pivot   forward edge ──▸          sent by others
///  ██████████████████·······░░░░░░░░░░░░░░░▓░░░░░░░░░░░░░░░░░░░·············██████████████
///                           pushed by this bubble              growing
/// ```
///
/// - There are k pivots, 7 by default; a fault takes the place of a pivot that has stopped growing,
///   else of the oldest. Few keep the push near where the guest is now, many keep up with more
///   threads of it; the paper's gain flattens out at about seven.
/// - An edge stops for ever at a page that is sent already (another bubble, a demand) and at the
///   end of its region.
/// - The pivots take turns, forward edge before backward edge: forward is essential, both ways are
///   at least as good, backward alone is worse than none.
/// - First of all comes the rest of the 64 KiB block in which the latest fault lies: inside a block
///   that the guest maps as one huge page, neighbours in the image are neighbours for the guest.
/// - When no edge can grow, the image is pushed in order, as by `LinearScan`.
///
/// Unlike the paper, which moves each edge by one page at a time, an edge takes a whole step of up
/// to 64 KiB, since small frames halve the throughput. A step takes constant time for a
/// given number of pivots, apart from the linear scan's, which is constant amortised.
public struct Bubbling: PrefetchPolicy {
  /// The paper's choice, and where its gain flattens out.
  public static let defaultPivotCount = 7
  /// More would only make a step slower: bounds the work of one step.
  public static let maximumPivotCount = 64

  private let layout: ImageLayout
  /// In the order of their slots; `age` tells which one is the oldest.
  private var pivots: [Pivot] = []
  private let pivotCount: Int
  private var noteCount: UInt64 = 0
  /// The slot whose turn it is.
  private var turn = 0
  private var scan: LinearScan

  /// A policy for `layout` that knows of no fault yet. 1 to `maximumPivotCount` pivots.
  public init(layout: ImageLayout, pivotCount: Int = Bubbling.defaultPivotCount) {
    invariant(
      (1...Self.maximumPivotCount).contains(pivotCount), "the number of pivots keeps its bounds")
    self.layout = layout
    self.pivotCount = pivotCount
    self.pivots.reserveCapacity(pivotCount)
    self.scan = LinearScan(layout: layout)
  }

  /// The pages become a pivot.
  public mutating func noteDemand(_ run: PageRun) {
    invariant(layout.contains(run), "a demand is checked against the image before it is noted")
    guard run.count > .zero else { return }
    noteCount += 1
    let pivot = Pivot(run, in: layout, age: noteCount)
    if pivots.count < pivotCount {
      pivots.append(pivot)
    } else {
      pivots[slotToReplace()] = pivot
    }
  }

  /// See `PrefetchPolicy`.
  public mutating func next(skipping claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun? {
    while let slot = latestSlotWithBlock() {
      if let step = pivots[slot].restOfBlock(claimed) { return step }
    }
    // Each pass gives every pivot one turn; a pivot that cannot grow hands it on.
    for _ in 0..<pivots.count {
      let slot = turn
      turn = (turn + 1) % pivots.count
      if let step = pivots[slot].grow(claimed) { return step }
    }
    return scan.next(skipping: claimed)
  }

  /// Each call of `restOfBlock` that finds nothing takes the pivot off this search for good.
  private func latestSlotWithBlock() -> Int? {
    var latest: Int?
    for slot in pivots.indices where pivots[slot].hasBlock {
      if latest.map({ pivots[$0].age < pivots[slot].age }) ?? true { latest = slot }
    }
    return latest
  }

  /// A pivot that has stopped, else the oldest. The ring is short, so a search beats bookkeeping.
  private func slotToReplace() -> Int {
    var chosen = 0
    for slot in pivots.indices {
      let (candidate, best) = (pivots[slot], pivots[chosen])
      if candidate.isGrowing != best.isGrowing {
        if best.isGrowing { chosen = slot }
      } else if candidate.age < best.age {
        chosen = slot
      }
    }
    return chosen
  }
}
