internal import Migration

/// The result of a fill ioctl on one run.
enum FillResult: Equatable {
  case done
  /// That many pages were filled before EAGAIN.
  case again(filledCount: Int)
  /// That many pages were filled before one that is there already.
  case exists(filledCount: Int)
}

/// The destination VM's memory behind a userfaultfd, as the kernel would have it.
///
/// A page's content is its version; 0 is a page of zeros, `poison` one that must not be read.
struct SimulatedMemory {
  static let poison = UInt32.max

  /// nil is absent.
  private(set) var versions: [UInt32?]
  var isRegistered = true
  /// Faults that nobody has read, by page; duplicates are normal.
  var unreadFaults: [Int] = []
  /// REMOVE events that nobody has read, with the vCPU whose madvise waits. Fills say EAGAIN.
  var unreadRemovals: [(range: Range<Int>, vcpu: Int)] = []
  /// vCPUs to be let go: woken by a fill or a wake.
  var wokenPages: [Int] = []
  /// Fills of pages that were there already and were overwritten all the same: a bug (P2).
  private(set) var overwriteCount = 0

  init(pageCount: Int) { versions = [UInt32?](repeating: nil, count: pageCount) }

  /// COPY, ZEROPAGE or POISON of a run; wakes what it fills.
  mutating func fill(
    _ start: Int, _ contents: [UInt32], isCutShortAt cut: Int? = nil, overwrites: Bool = false
  ) -> FillResult {
    if !unreadRemovals.isEmpty { return .again(filledCount: 0) }
    for (offset, content) in contents.enumerated() {
      if offset == cut && offset > 0 { return .again(filledCount: offset) }
      if versions[start + offset] != nil {
        if !overwrites { return .exists(filledCount: offset) }
        overwriteCount += 1
      }
      versions[start + offset] = content
      wokenPages.append(start + offset)
    }
    return .done
  }

  /// UFFDIO_WAKE of one page.
  mutating func wake(_ page: Int) { wokenPages.append(page) }

  /// A vCPU's store; the page is mapped.
  mutating func write(_ page: Int, _ version: UInt32) { versions[page] = version }

  /// MADV_DONTNEED on private memory, a punched hole, or a dropped seed.
  mutating func drop(_ page: Int) { versions[page] = nil }
}
