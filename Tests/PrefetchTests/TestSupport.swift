import Pages
import Prefetch
import Testing

/// SplitMix64: the same numbers for the same seed, on every machine.
struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}

/// An image of regions with that many pages each, one behind the other.
func image(_ regions: [(pages: Int, size: PageSize)]) throws -> ImageLayout {
  var described: [Region] = []
  var offset = 0
  for (index, region) in regions.enumerated() {
    // Rounded up to a huge page, which suits all sizes.
    offset =
      (offset + PageSize.huge.byteCount - 1) / PageSize.huge.byteCount
      * PageSize.huge.byteCount
    described.append(
      Region(
        index: RegionIndex(index), imageOffset: ByteCount(offset),
        byteCount: PageCount(region.pages).byteCount(of: region.size), pageSize: region.size))
    offset += region.pages * region.size.byteCount
  }
  return try ImageLayout(described)
}

/// Small and huge pages, regions that are no whole number of steps, and one of a single page.
func mixedImage() throws -> ImageLayout {
  try image([(1000, .small), (7, .huge), (1, .small), (333, .small), (64, .huge)])
}

/// Plays the source: claims what a policy pushes and what is demanded, and judges every step.
final class Source {
  let layout: ImageLayout
  var policy: any PrefetchPolicy
  var claimed: PageBitmap
  /// Runs in the order in which they were pushed, as flat ranges.
  private(set) var pushed: [Range<Int>] = []
  private(set) var demandCount = 0

  convenience init(_ kind: PrefetchKind, _ layout: ImageLayout) {
    self.init(kind.makePolicy(for: layout), layout)
  }

  init(_ policy: any PrefetchPolicy, _ layout: ImageLayout) {
    self.layout = layout
    self.policy = policy
    self.claimed = PageBitmap(pageCount: Int(layout.totalPageCount.rawValue))
  }

  var pageCount: Int { claimed.pageCount }
  var isDone: Bool { claimed.setCount == claimed.pageCount }

  /// The guest waits for a page that nobody has sent: the urgent thread answers.
  func demand(_ flatIndex: Int) {
    claimed.insert(flatIndex)
    demandCount += 1
    policy.noteDemand(PageRun(layout.pageID(atFlatIndex: flatIndex)))
  }

  /// One step of push; checks what every policy promises. False once there is nothing left.
  func push(sourceLocation: SourceLocation = #_sourceLocation) -> Bool {
    guard let run = policy.next(skipping: claimed) else {
      #expect(isDone, "a policy ends only when all is claimed", sourceLocation: sourceLocation)
      return false
    }
    guard layout.contains(run), run.count > .zero else {
      Issue.record("\(run) is not in the image", sourceLocation: sourceLocation)
      return false
    }
    let size = layout.regions[Int(run.region.rawValue)].pageSize
    let byteCount = Int(run.count.byteCount(of: size).rawValue)
    #expect(
      byteCount <= 65_536 || run.count == PageCount(1), "\(run) is one step",
      sourceLocation: sourceLocation)
    let flat = layout.flatRange(of: run)
    for page in flat where !claimed.insert(page) {
      Issue.record("page \(page) is pushed a second time", sourceLocation: sourceLocation)
    }
    pushed.append(flat)
    return true
  }

  func pushAll(sourceLocation: SourceLocation = #_sourceLocation) {
    // Each step claims a page at least, so this many are always enough.
    for _ in 0...pageCount where !push(sourceLocation: sourceLocation) { return }
    Issue.record("more steps than pages", sourceLocation: sourceLocation)
  }
}

/// Which pages a guest touches one after the other.
enum Trace: String, CaseIterable {
  case sequential, strided, reverse, random

  func touches(pageCount: Int, seed: UInt64 = 7) -> [Int] {
    switch self {
    case .sequential: return Array(0..<pageCount)
    case .strided:
      // All pages, every 17th first.
      return (0..<17).flatMap { Array(stride(from: $0, to: pageCount, by: 17)) }
    case .reverse: return (0..<pageCount).reversed()
    case .random:
      var random = SeededRandom(seed: seed)
      return (0..<pageCount).shuffled(using: &random)
    }
  }
}
