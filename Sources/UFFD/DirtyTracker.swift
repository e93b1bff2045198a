internal import Pages
internal import System

/// Why a range has to be sent again.
@frozen
public enum DirtyKind: Hashable, Sendable {
  /// Its pages were written or dropped.
  case written
  /// Its pages are not mapped, and what the page tables know does not tell whether they changed.
  case unpopulated
}

/// What kind of memory a tracker watches: it decides what a place without a page can hold.
@frozen
public enum TrackedMemory: Hashable, Sendable {
  /// Without a file, not shared: what is not there reads as zeros, and dropping counts as written.
  case privateAnonymous
  /// A private mapping of a file, or private huge pages: dropping a page leaves its protection
  /// mark, so every place that has no page is reported each round.
  case privateFile
  /// Shared: what is not mapped is in the file. A page that is punched out of the file keeps its
  /// mark and is **not** reported, even when it is read and so is there again: whoever tracks such
  /// memory has to find that by a mapping of its own.
  case shared
}

/// Which pages of another process were written since the last round, while it runs.
///
/// That process owns a userfaultfd made with `UserfaultFeatures.asynchronousWriteProtect` and
/// `.writeProtectUnpopulated`, and registered with `RegistrationModes.writeProtect` over the
/// ranges.
///
/// **Pinned pages are not seen**: collect, the first round included, only while the process has no
/// direct I/O under way; and writes through another mapping (vhost-user, VFIO) are never seen.
///
/// A stretch of 2 MiB without any page table is passed over by the scan, neither reported nor
/// protected: of huge pages still in Linux 6.18.44, of others until the kernels of 2026. So each
/// round asks for such holes too. Of private anonymous memory it reports those that were none the
/// last time: a hole that stays one reads as zeros still, and a page that is written into one is
/// not protected and therefore found as written. Of other memory it reports them all: a page may
/// have been written into a hole and its page table dropped again.
public struct DirtyTracker: ~Copyable, Sendable {
  private struct TrackedRange {
    let range: HostRange
    /// By block of `holeSize`, the first one being that of the range's start.
    var holes: PageBitmap
  }

  /// What one page table covers: the size of the holes.
  private static let holeSize = PageSize.huge

  private let scanner: PagemapScanner
  private let memory: TrackedMemory
  private var ranges: [TrackedRange]
  private var runs: PagemapRunBuffer

  /// Tracks `ranges`, which are not empty, through the pagemap of the process that has them.
  /// All of them are of one kind of memory.
  public init(
    scanner: consuming PagemapScanner, ranges: [HostRange], memory: TrackedMemory,
    runCapacity: Int = PagemapRunBuffer.defaultCapacity
  ) {
    invariant(ranges.allSatisfy { $0.byteCount > .zero }, "a tracked range is not empty")
    self.scanner = scanner
    self.memory = memory
    self.ranges = ranges.map { range in
      let last = HostAddress(rawValue: range.end.rawValue - 1)
      return TrackedRange(
        range: range,
        holes: PageBitmap(pageCount: Self.block(of: last, countedFrom: range.start) + 1))
    }
    self.runs = PagemapRunBuffer(capacity: runCapacity)
  }

  /// Reports everything on the first round, and on later ones what was written since the last; what
  /// it reports as written it protects in the same atomic step, but for the last round, behind
  /// which nobody asks again.
  ///
  /// A page that is written during the round is reported now, in the next round, or in both; so the
  /// last round is one with the process stopped. ENOENT or EPERM, thrown, when a range is not
  /// wholly mapped and tracked. After a throw, what was reported so far may be protected already:
  /// start over with a new tracker and a full copy.
  public mutating func collect(
    isLast: Bool = false, _ report: (HostRange, DirtyKind) -> Void
  ) throws(UFFDError) {
    for position in ranges.indices {
      if !isLast {
        let question = PagemapQuestion(required: .isWritten)
        try scanner.scanAll(
          ranges[position].range, for: question, protecting: true, into: &runs
        ) { report($0.range, .written) }
      }
      // Behind the scan: a hole that was filled between the two would count as one still.
      try survey(at: position, reportsWritten: isLast, report)
    }
  }

  /// Looks at each page once, to see that all are tracked, which are holes, and which are written.
  ///
  /// A page table's entry is written, present or, as the mark of a protected page that is not
  /// there, swapped. Only where there is no page table it is none of these. Where such marks
  /// outlive their pages, they count as holes as well.
  private mutating func survey(
    at position: Int, reportsWritten: Bool, _ report: (HostRange, DirtyKind) -> Void
  ) throws(UFFDError) {
    let range = ranges[position].range
    let known = ranges[position].holes
    let reportsKnown = memory != .privateAnonymous
    var holes = PageBitmap(pageCount: known.pageCount)
    // All before this is tracked. The scan passes over what is not mapped without a word, and may
    // tell of what it has told before.
    var trackedEnd = range.start
    var filled: PageCategories = [.isWritten, .isPresent]
    if memory != .privateFile { filled.insert(.isSwapped) }
    let question = PagemapQuestion(required: .isTracked, reported: filled)
    try scanner.scanAll(range, for: question, into: &runs) { found in
      let run = found.range
      if run.start <= trackedEnd { trackedEnd = max(trackedEnd, run.end) }
      if reportsWritten, found.categories.contains(.isWritten) { report(run, .written) }
      guard found.categories.isEmpty else { return }
      var start = run.start
      while start < run.end {
        let block = Self.block(of: start, countedFrom: range.start)
        let blockEnd = start.roundedDown(to: Self.holeSize)
          .advanced(by: ByteCount(Self.holeSize.byteCount))
        let end = min(blockEnd, run.end)
        holes.insert(block)
        if reportsKnown || !known[block] { report(HostRange(start: start, end: end), .unpopulated) }
        start = end
      }
    }
    guard trackedEnd == range.end else {
      throw UFFDError(.scanPagemap, range: range, errno: .noSuchEntry)
    }
    ranges[position].holes = holes
  }

  private static func block(of address: HostAddress, countedFrom start: HostAddress) -> Int {
    Int((address.rawValue >> UInt64(holeSize.shift)) - (start.rawValue >> UInt64(holeSize.shift)))
  }
}
