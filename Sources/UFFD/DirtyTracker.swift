internal import Pages
internal import System

/// Why a range has to be sent again.
@frozen
public enum DirtyKind: Hashable, Sendable {
  /// Its pages were written or dropped.
  case written
  /// Its pages are not there, and the page tables do not tell since when: told each round. Where
  /// nothing lies behind it, what was never there, or read as zeros when it was sent, has not
  /// changed by that.
  case unpopulated
}

/// What kind of memory a tracker watches: it decides what a place without a page can hold.
@frozen
public enum TrackedMemory: Hashable, Sendable {
  /// Without a file, not shared: what is not there reads as zeros. Dropping counts as written, but
  /// where the page table went as well.
  case privateAnonymous
  /// A private mapping of a file, or private huge pages: dropping a page leaves its protection
  /// mark, so every place that has no page is told as unpopulated.
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
/// round asks for such holes too, and reports them all: a page may have been written into one,
/// sent, and dropped again with its page table.
public struct DirtyTracker: ~Copyable, Sendable {
  private let scanner: PagemapScanner
  private let memory: TrackedMemory
  private let ranges: [HostRange]
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
    self.ranges = ranges
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
    for range in ranges {
      if !isLast {
        let question = PagemapQuestion(required: .isWritten)
        try scanner.scanAll(range, for: question, protecting: true, into: &runs) {
          report($0.range, .written)
        }
      }
      // Behind the scan: what is dropped with its page table before it is none of its findings.
      try survey(range, reportsWritten: isLast, report)
    }
  }

  /// Looks at each page once, to see that all are tracked, which are holes, and which are written.
  ///
  /// A page table's entry is written, present or, as the mark of a protected page that is not
  /// there, swapped. Only where there is no page table it is none of these. Where such marks
  /// outlive their pages, they count as holes as well.
  private mutating func survey(
    _ range: HostRange, reportsWritten: Bool, _ report: (HostRange, DirtyKind) -> Void
  ) throws(UFFDError) {
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
      if found.categories.isEmpty { report(run, .unpopulated) }
    }
    guard trackedEnd == range.end else {
      throw UFFDError(.scanPagemap, range: range, errno: .noSuchEntry)
    }
  }
}
