internal import Pages
internal import System
internal import Wire

/// Walks the image once for memory that was never there, in short steps, and gathers it as runs of
/// pages for zero map frames.
struct AbsentMap {
  /// A step ends after this time: what waits behind it is device state, for which the guest stands
  /// still, or the next run of a push.
  static let stepNanoseconds: UInt64 = 1_000_000

  private let layout: ImageLayout
  private var region = 0
  /// Where to go on in that region, as an offset in the image.
  private var position: UInt64
  private(set) var runs: [PageRun] = []

  init(layout: ImageLayout) {
    self.layout = layout
    position = layout.regions[0].imageOffset.rawValue
    // A search adds at most a chunk's worth to what a frame leaves over; growth is rare and off the
    // urgent path.
    runs.reserveCapacity(2 * WireLimits.maximumZeroMapRunCount)
  }

  /// Whether the whole image was looked at.
  var isFinished: Bool { region == layout.regions.count }

  /// Looks on for `stepNanoseconds`, or until a frame is full or the image ends.
  mutating func step(_ backing: any MemoryBacking) throws(MemoryError) {
    let limit = MonotonicClock.now().advanced(byNanoseconds: Self.stepNanoseconds)
    while !isFinished, runs.count < WireLimits.maximumZeroMapRunCount,
      MonotonicClock.now() < limit
    {
      let current = layout.regions[region]
      let end = (current.imageOffset + current.byteCount).rawValue
      let next = try backing.searchAbsent(in: position..<end) { absent in
        if let run = Self.pages(absent, of: current) { runs.append(run) }
      }
      invariant(next > position, "a search for absent memory goes on")
      position = next
      guard position >= end else { continue }
      region += 1
      if !isFinished { position = layout.regions[region].imageOffset.rawValue }
    }
  }

  /// Takes out what one frame holds.
  mutating func takeFrame() -> [PageRun] {
    let frame = Array(runs.prefix(WireLimits.maximumZeroMapRunCount))
    runs.removeFirst(frame.count)
    return frame
  }

  /// The region's whole pages in a range of the image; nil when there is none.
  private static func pages(_ bytes: Range<UInt64>, of region: Region) -> PageRun? {
    let size = UInt64(region.pageSize.byteCount)
    let start = region.imageOffset.rawValue
    // Rounded inwards: a page that is only partly absent is none.
    let first = (bytes.lowerBound - start + size - 1) / size
    let end = (bytes.upperBound - start) / size
    guard first < end else { return nil }
    return PageRun(
      region: region.index, start: PageIndex(rawValue: first),
      count: PageCount(rawValue: end - first))
  }
}
