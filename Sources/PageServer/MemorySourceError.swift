public import Pages
public import System

/// Why memory cannot be served: found before anything moves, so the VM just runs on.
public enum MemorySourceError: Error, Hashable, Sendable, CustomStringConvertible {
  /// None of `file:`, `pid:`, `snapshot:` and `export:`.
  case unknownForm(String)
  /// A form that needs a path has none.
  case emptyPath(String)
  /// No process number.
  case badPID(String)
  /// No range in the form START-END with START < END.
  case badRange(String)
  /// A range that is not a whole number of 4 KiB pages.
  case unalignedRange(String)
  /// Two ranges share bytes.
  case overlappingRanges(String, String)
  /// The file or process cannot be opened.
  case cannotOpen(MemorySource, SystemError)
  /// A directory, a device, a FIFO.
  case notARegularFile(path: String)
  /// There is no process of that number.
  case noSuchProcess(pid: Int32)
  /// This process may not read that one's memory.
  case notPermitted(pid: Int32, SystemError)
  /// Part of the range is not mapped, or not readable.
  case notMapped(pid: Int32, range: String, at: UInt64)
  /// The range has pages of several sizes.
  case mixedPageSizes(pid: Int32, range: String)
  /// The range's pages come from a userfaultfd: an earlier migration, or a snapshot that loads
  /// lazily, has not finished, and what is absent there is not zeros.
  case incomplete(pid: Int32, range: String)
  /// No ranges were named and no mapping looks like a guest's memory.
  case noCandidate(pid: Int32)
  /// No ranges were named and several mappings could be the guest's memory.
  case manyCandidates(pid: Int32, ranges: [String])
  /// The memory makes no image.
  case layout(MemorySource, LayoutError)
  /// A region of the image lies outside the memory, or across two of its pieces.
  case regionOutside(MemorySource, RegionIndex)
  /// A region's pages have another size than the memory's.
  case pageSize(MemorySource, RegionIndex, expected: UInt64)
  /// An export that is not to be served.
  case export(ExportError)

  /// What is wrong and what to do, for an operator.
  public var description: String {
    switch self {
    case .unknownForm(let text):
      "'\(text)' names no memory; write file:PATH, pid:NUMBER[:RANGES], "
        + "snapshot:PATH or export:PATH"
    case .emptyPath(let text): "'\(text)' needs a path behind the colon"
    case .badPID(let text): "'\(text)' is no process number"
    case .badRange(let text):
      "'\(text)' is no address range; write START-END in hexadecimal, as /proc/PID/maps does"
    case .unalignedRange(let text): "the range \(text) is not a whole number of 4 KiB pages"
    case .overlappingRanges(let first, let second):
      "the ranges \(first) and \(second) overlap"
    case .cannotOpen(let source, let error): "\(source): \(error)"
    case .notARegularFile(let path): "\(path) is not a regular file; name the VM's memory file"
    case .noSuchProcess(let pid): "there is no process \(pid)"
    case .notPermitted(let pid, let error):
      "the memory of process \(pid) may not be read (\(error)); run as its user, or with "
        + "CAP_SYS_PTRACE"
    case .notMapped(let pid, let range, let address):
      "process \(pid) has no readable memory at \(String(address, radix: 16)), in range \(range)"
    case .mixedPageSizes(let pid, let range):
      "range \(range) of process \(pid) has pages of several sizes; name one range for each size"
    case .incomplete(let pid, let range):
      "range \(range) of process \(pid) is still being filled through a userfaultfd; wait until "
        + "the earlier migration or the lazy load of its snapshot has finished"
    case .noCandidate(let pid):
      "process \(pid) has no mapping that looks like a guest's memory; name its ranges: "
        + "pid:\(pid):START-END"
    case .manyCandidates(let pid, let ranges):
      "process \(pid) has \(ranges.count) mappings that could be a guest's memory; name those that "
        + "are: pid:\(pid):\(ranges.joined(separator: ","))"
    case .layout(let source, let error): "\(source): \(error)"
    case .regionOutside(let source, let region):
      "region \(region.rawValue) lies outside the memory of \(source)"
    case .pageSize(let source, let region, let expected):
      "region \(region.rawValue) must have pages of \(expected) bytes, as \(source) has"
    case .export(let error): "\(error)"
    }
  }
}
