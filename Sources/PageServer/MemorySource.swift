/// Where a VM's memory is, as the user writes it behind `--memory`.
public enum MemorySource: Hashable, Sendable, CustomStringConvertible {
  /// `file:PATH`: a memory file that the VMM shares: in /dev/shm, on hugetlbfs, `/proc/PID/fd/N`.
  case file(path: String)
  /// `pid:N[:RANGES]`: memory of a process. No ranges: the one mapping that looks like a guest's.
  case process(pid: Int32, ranges: [Range<UInt64>])
  /// `snapshot:PATH`: a file that holds the memory of a VM that does not run.
  case snapshot(path: String)
  /// `export:PATH`: what `page-server export` made of a VM that was handed over.
  case export(path: String)

  /// Reads the option's text. Ranges are written as in /proc/PID/maps, `START-END` in hexadecimal
  /// (0x may stand in front), separated by commas, in the order of the image.
  public init(parsing text: String) throws(MemorySourceError) {
    guard let colon = text.firstIndex(of: ":") else { throw .unknownForm(text) }
    let rest = String(text[text.index(after: colon)...])
    switch text[..<colon] {
    case "file":
      guard !rest.isEmpty else { throw .emptyPath(text) }
      self = .file(path: rest)
    case "snapshot":
      guard !rest.isEmpty else { throw .emptyPath(text) }
      self = .snapshot(path: rest)
    case "export":
      guard !rest.isEmpty else { throw .emptyPath(text) }
      self = .export(path: rest)
    case "pid": self = try Self.parseProcess(rest)
    default: throw .unknownForm(text)
    }
  }

  private static func parseProcess(_ text: String) throws(MemorySourceError) -> MemorySource {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    guard let pid = Int32(parts[0]), pid > 0 else { throw .badPID(String(parts[0])) }
    guard parts.count > 1 else { return .process(pid: pid, ranges: []) }
    var ranges: [Range<UInt64>] = []
    for part in parts[1].split(separator: ",", omittingEmptySubsequences: false) {
      guard let range = parseRange(part) else { throw .badRange(String(part)) }
      guard range.lowerBound.isMultiple(of: 4096), range.upperBound.isMultiple(of: 4096) else {
        throw .unalignedRange(String(part))
      }
      for earlier in ranges where earlier.overlaps(range) {
        throw .overlappingRanges(hexadecimal(earlier), hexadecimal(range))
      }
      ranges.append(range)
    }
    return .process(pid: pid, ranges: ranges)
  }

  private static func parseRange(_ text: Substring) -> Range<UInt64>? {
    let bounds = text.split(separator: "-", omittingEmptySubsequences: false)
    guard bounds.count == 2, let start = number(bounds[0]), let end = number(bounds[1]),
      start < end, end <= 1 << 63
    else { return nil }
    return start..<end
  }

  private static func number(_ text: Substring) -> UInt64? {
    let digits = text.hasPrefix("0x") ? text.dropFirst(2) : text
    guard digits.utf8.allSatisfy({ $0 != UInt8(ascii: "+") }) else { return nil }
    return UInt64(digits, radix: 16)
  }

  /// A range as /proc/PID/maps writes it, and as the option takes it.
  static func hexadecimal(_ range: Range<UInt64>) -> String {
    String(range.lowerBound, radix: 16) + "-" + String(range.upperBound, radix: 16)
  }

  /// As the user would write it.
  public var description: String {
    switch self {
    case .file(let path): "file:\(path)"
    case .snapshot(let path): "snapshot:\(path)"
    case .export(let path): "export:\(path)"
    case .process(let pid, let ranges):
      ranges.isEmpty
        ? "pid:\(pid)"
        : "pid:\(pid):" + ranges.map(Self.hexadecimal).joined(separator: ",")
    }
  }
}
