internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// Which pages a scan is to report.
@frozen
public struct PagemapQuestion: Hashable, Sendable {
  /// Categories that a page must have, all of them.
  public var required: PageCategories
  /// Categories that a page must not have, none of them.
  public var excluded: PageCategories
  /// Categories that the answer tells of; runs end where these change.
  public var reported: PageCategories

  /// Pages that have all of `required` and none of `excluded`.
  @inlinable
  public init(
    required: PageCategories, excluded: PageCategories = [], reported: PageCategories = []
  ) {
    self.required = required
    self.excluded = excluded
    self.reported = reported
  }
}

/// The page tables of one process, read by PAGEMAP_SCAN (Linux 6.7).
public struct PagemapScanner: ~Copyable, Sendable {
  private let pagemap: OwnedDescriptor

  /// Opens the pagemap of a process, which needs the right to trace it (CAP_SYS_PTRACE for
  /// others'). It goes on to mean that process, even when its id is used again.
  public init(processID: Int32) throws(UFFDError) {
    do {
      self.pagemap = try OwnedDescriptor.open("/proc/\(processID)/pagemap", flags: O_RDONLY)
    } catch {
      throw UFFDError(.openPagemap(processID: processID), errno: error.errno)
    }
  }

  /// Finds the pages of `range` that answer `question`, and answers how far it came: less than the
  /// range's end when the buffer is full; then go on from there.
  ///
  /// - Parameter protecting: whether the pages found are write-protected in the same atomic step.
  ///   EPERM, thrown, when a mapping in the range is not tracked (see
  ///   `PageCategories.isTracked`).
  public borrowing func scan(
    _ range: HostRange, for question: PagemapQuestion, protecting: Bool = false,
    into buffer: inout PagemapRunBuffer
  ) throws(UFFDError) -> HostAddress {
    var argument = pagemap_abi_scan()
    argument.size = UInt64(MemoryLayout<pagemap_abi_scan>.size)
    argument.flags =
      protecting ? pagemap_scan_wp_matching | pagemap_scan_check_wpasync : 0
    argument.start = range.start.rawValue
    argument.end = range.end.rawValue
    argument.vec = unsafe UInt64(UInt(bitPattern: buffer.regions))
    argument.vec_len = UInt64(buffer.capacity)
    argument.category_inverted = question.excluded.rawValue
    argument.category_mask = question.required.union(question.excluded).rawValue
    argument.return_mask = question.reported.rawValue
    buffer.count = 0
    // unsafe: the request is called with the structure that its number is computed from, and the
    // kernel writes at most `vec_len` regions, which the buffer has room for.
    let count = unsafe ioctl(pagemap.rawValue, pagemap_request_scan, &argument)
    guard count >= 0 else { throw UFFDError(.scanPagemap, range: range, errno: .current) }
    buffer.count = Int(count)
    return HostAddress(rawValue: argument.walk_end)
  }

  /// Calls `body` for all runs of `range` that answer `question`, however many scans that takes.
  ///
  /// A page can be told twice: behind 512 runs the kernel goes on by itself, and when it then comes
  /// to the end it still says that it came as far as those (`do_pagemap_scan`, Linux 6.18,
  /// fs/proc/task_mmu.c). Each time it tells what was so at that time, and has protected just that:
  /// nothing may be left out because what lies around it was told before.
  public borrowing func scanAll(
    _ range: HostRange, for question: PagemapQuestion, protecting: Bool = false,
    into buffer: inout PagemapRunBuffer, _ body: (PagemapRun) -> Void
  ) throws(UFFDError) {
    var rest = range
    while rest.byteCount > .zero {
      let reached = try scan(rest, for: question, protecting: protecting, into: &buffer)
      for position in 0..<buffer.count { body(buffer[position]) }
      // Each call ends behind where it began, or the kernel would have us loop for ever.
      guard reached > rest.start, reached <= rest.end else {
        throw UFFDError(.scanPagemap, range: rest, errno: .inputOutput)
      }
      rest = HostRange(start: reached, end: rest.end)
    }
  }
}
