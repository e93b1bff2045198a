internal import Codec
internal import Pages
internal import System
internal import Wire

/// What a page turned out to be when it was read.
enum PageKind {
  case content
  /// The destination has it already, as it is.
  case same
  case zero
  case poisoned
}

/// What a page is sent for.
enum PagePurpose {
  /// A vCPU waits for it.
  case demand
  /// It will be needed.
  case push
  /// The VM still runs here, and may change it.
  case seed
}

/// Pages of one run that are sent in one frame: neighbours of one kind.
struct RunSegment {
  let kind: PageKind
  /// Position of the first page in the run.
  let start: Int
  let pageCount: Int
  /// Of contents: the destination has an earlier state of each of its pages.
  var isKnown = false
}

/// Reads runs into one thread's own buffer, sorts their pages by kind, and puts frame headers right
/// in front of them, so that a segment is one send.
struct RunLoader: ~Copyable {
  /// Pages start here: on a page border, so that the kernel copies whole pages, with room for the
  /// first header before it.
  private static let firstPageOffset = 4096
  /// The most pages in one run; the masks below have a bit for each.
  static let maximumPageCount = WireLimits.maximumRunPageCount

  private let backing: any MemoryBacking
  private let layout: ImageLayout
  private let session: UInt32
  let hasChecksums: Bool
  private var buffer: PageBuffer

  private var run: PageRun
  private var pageSize = PageSize.small
  private var zeroMask: UInt32 = 0
  private var poisonMask: UInt32 = 0
  private var comparison = DeltaCache.Comparison()

  init(_ context: SourceContext) throws(SystemError) {
    backing = context.backing
    layout = context.layout
    session = context.session.shortID
    hasChecksums = context.options.hasPayloadChecksums
    buffer = try PageBuffer(
      byteCount: Self.firstPageOffset + Self.largestByteCount(of: layout))
    run = PageRun(region: RegionIndex(0), start: PageIndex(0), count: .zero)
  }

  /// Bytes of the largest run of an image.
  static func largestByteCount(of layout: ImageLayout) -> Int {
    layout.regions.reduce(0) { largest, region in
      let pages = WireLimits.maximumRunPageCount(of: region.pageSize)
      return max(largest, Int(pages.byteCount(of: region.pageSize).rawValue))
    }
  }

  /// Reads a run that exists in the image and fits one frame. Allocates nothing.
  mutating func load(_ run: PageRun) throws(MemoryError) {
    let region = layout.regions[Int(run.region.rawValue)]
    let count = Int(run.count.rawValue)
    invariant(
      count > 0 && run.count <= WireLimits.maximumRunPageCount(of: region.pageSize),
      "a run that is read fits one frame")
    self.run = run
    pageSize = region.pageSize
    zeroMask = 0
    poisonMask = 0
    comparison = DeltaCache.Comparison()
    let size = pageSize.byteCount
    let backing = backing
    let imageOffset = region.imageOffset.rawValue + run.start.rawValue * UInt64(size)
    var page = 0
    while page < count {
      let rest = pages(page..<count)
      var span = buffer.mutableBytes(rest)
      let result = try backing.read(
        into: &span, at: imageOffset + UInt64(page * size), pageByteCount: size)
      guard case .poisoned(let offset) = result else { break }
      page += offset / size
      poisonMask |= 1 << UInt32(page)
      page += 1
    }
    for page in 0..<count where poisonMask & 1 << UInt32(page) == 0 {
      if ZeroScan.isZero(buffer.bytes(pages(page..<page + 1))) { zeroMask |= 1 << UInt32(page) }
    }
  }

  /// Compares what was read with what the destination has of it: these are seeds of a round.
  mutating func compare(with cache: DeltaCache, round: UInt64) {
    guard pageSize == .small else { return }
    comparison = cache.compare(
      layout.flatRange(of: run), buffer.bytes(pages(0..<pageCount)), round: round)
  }

  /// The segment that starts at a page of the run that was read; at most `limit` pages of it.
  func segment(from start: Int, limit: Int = maximumPageCount) -> RunSegment {
    let kind = kind(of: start)
    let isKnown = isKnown(start)
    var end = start + 1
    while end < min(start + limit, pageCount), self.kind(of: end) == kind,
      self.isKnown(end) == isKnown
    { end += 1 }
    return RunSegment(
      kind: kind, start: start, pageCount: end - start, isKnown: isKnown)
  }

  /// Behind the last page of which something is to be sent.
  func sentEnd(for purpose: PagePurpose) -> Int {
    var end = pageCount
    while end > 0 {
      switch kind(of: end - 1) {
      case .content, .zero: return end
      case .poisoned where purpose != .seed: return end
      case .poisoned, .same: end -= 1
      }
    }
    return end
  }

  /// How many pages the run has that was read.
  var pageCount: Int { Int(run.count.rawValue) }

  /// The pages of a segment, as pages of the image.
  func flatRange(of segment: RunSegment) -> Range<Int> {
    let first = layout.flatRange(of: run).lowerBound + segment.start
    return first..<first + segment.pageCount
  }

  /// Bytes in each of them.
  var pageByteCount: Int { pageSize.byteCount }

  /// Those that are poisoned, by their positions in the run.
  var poisonedPages: [Int] {
    poisonMask == 0 ? [] : (0..<pageCount).filter { poisonMask & 1 << UInt32($0) != 0 }
  }

  /// Whether a page could be read.
  func isSound(_ page: Int) -> Bool { poisonMask & 1 << UInt32(page) == 0 }

  /// How many of them are poisoned.
  var poisonedPageCount: Int { poisonMask.nonzeroBitCount }

  /// The frame of one segment. Its header is written over the bytes before its first page: segments
  /// are taken in the order of their pages, so those were sent already.
  /// Returns where the whole frame lies, for `bytes`.
  ///
  /// What is poisoned is never a seed.
  mutating func makeFrame(
    _ segment: RunSegment, for purpose: PagePurpose, sequence: UInt32
  ) -> Range<Int> {
    let run = self.run(of: segment)
    let pages = pages(segment.start..<segment.start + segment.pageCount)
    let start = pages.lowerBound - WireLimits.headerByteCount
    let header: FrameHeader
    let end: Int
    let isDemanded = purpose == .demand
    switch segment.kind {
    case .content:
      let checksum = hasChecksums ? CRC32C.checksum(of: buffer.bytes(pages)) : nil
      header =
        purpose == .seed
        ? .seedPages(
          run, pageSize: pageSize, session: session, sequence: sequence, checksum: checksum)
        : .pages(
          run, pageSize: pageSize, isDemanded: isDemanded, session: session, sequence: sequence,
          checksum: checksum)
      end = pages.upperBound
    case .zero:
      header =
        purpose == .seed
        ? .seedZeros(run, session: session, sequence: sequence)
        : .zeroPages(run, isDemanded: isDemanded, session: session, sequence: sequence)
      end = pages.lowerBound
    case .poisoned:
      invariant(purpose != .seed, "poison is told after the freeze alone")
      header = .poisonedPages(run, isDemanded: isDemanded, session: session, sequence: sequence)
      end = pages.lowerBound
    case .same: invariantBroken("nothing is sent of what the destination has")
    }
    var room = buffer.mutableBytes(start..<pages.lowerBound)
    header.encode(into: &room)
    return start..<end
  }

  /// The header of a segment of contents that is not demanded, without a checksum of its pages.
  func plainHeader(
    _ segment: RunSegment, for purpose: PagePurpose, sequence: UInt32
  ) -> FrameHeader {
    let run = run(of: segment)
    return purpose == .seed
      ? .seedPages(run, pageSize: pageSize, session: session, sequence: sequence, checksum: nil)
      : .pages(
        run, pageSize: pageSize, isDemanded: false, session: session, sequence: sequence,
        checksum: nil)
  }

  /// The pages of a segment, as they were read.
  @_lifetime(borrow self)
  borrowing func pageBytes(_ segment: RunSegment) -> RawSpan {
    buffer.bytes(pages(segment.start..<segment.start + segment.pageCount))
  }

  private func run(of segment: RunSegment) -> PageRun {
    PageRun(
      region: run.region, start: run.start.advanced(by: PageCount(segment.start)),
      count: PageCount(segment.pageCount))
  }

  /// The bytes of a frame that was made; valid until the next one is.
  @_lifetime(borrow self)
  borrowing func bytes(_ frame: Range<Int>) -> RawSpan { buffer.bytes(frame) }

  private func kind(of page: Int) -> PageKind {
    let bit: UInt32 = 1 << UInt32(page)
    if poisonMask & bit != 0 { return .poisoned }
    // What was sent is no zero, so what is the same as that is none.
    if zeroMask & bit != 0 { return .zero }
    return comparison.same & bit != 0 ? .same : .content
  }

  private func isKnown(_ page: Int) -> Bool {
    comparison.known & 1 << UInt32(page) != 0 && kind(of: page) == .content
  }

  private func pages(_ range: Range<Int>) -> Range<Int> {
    let size = pageSize.byteCount
    return Self.firstPageOffset + range.lowerBound * size..<Self.firstPageOffset
      + range.upperBound * size
  }
}
