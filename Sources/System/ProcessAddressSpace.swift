/// What another process has mapped where: /proc/PID/maps.
public struct ProcessAddressSpace: Sendable {
  /// One mapping.
  public struct Mapping: Hashable, Sendable {
    /// The first address.
    public let start: UInt64
    /// The address behind the last.
    public let end: UInt64
    /// Whether writes go to the file or memory that others share (MAP_SHARED).
    public let isShared: Bool
    /// The file or name, empty for anonymous memory.
    public let name: String
  }

  /// The mappings in the order of their addresses.
  public let mappings: [Mapping]

  /// The mappings of the process as they are now. Needs the right to ptrace it.
  public init(pid: Int32) throws(SystemError) {
    let path = "/proc/\(pid)/maps"
    let bytes = try FileSystem.contents(
      ofSmallFile: path, maximumByteCount: Self.maximumByteCount)
    self.init(parsing: String(decoding: bytes, as: UTF8.self))
  }

  /// 65 530 mappings (vm.max_map_count) of some 100 bytes each.
  private static let maximumByteCount = 16 << 20

  /// The mappings of a text in the form of /proc/PID/maps. Lines in another form are left out.
  public init(parsing text: String) {
    mappings = text.split(separator: "\n").compactMap { line in
      let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
      guard fields.count >= 2, let dash = fields[0].firstIndex(of: "-"),
        let start = UInt64(fields[0][..<dash], radix: 16),
        let end = UInt64(fields[0][fields[0].index(after: dash)...], radix: 16)
      else { return nil }
      let name = fields.count > 5 ? String(fields[5].drop { $0 == " " }) : ""
      return Mapping(start: start, end: end, isShared: fields[1].hasSuffix("s"), name: name)
    }
  }

  /// How a range is mapped.
  public enum Coverage: Hashable, Sendable {
    /// All of it privately.
    case isPrivate
    /// All of it shared.
    case shared
    /// Parts of it privately, parts shared.
    case mixed
    /// Something in it is not mapped; the first such address.
    case unmapped(at: UInt64)
  }

  /// How the range from `start` of `byteCount` bytes is mapped.
  public func coverage(start: UInt64, byteCount: UInt64) -> Coverage {
    let end = start + byteCount
    var reached = start
    var isShared: Bool?
    var isMixed = false
    for mapping in mappings where mapping.end > reached && mapping.start < end {
      if mapping.start > reached { return .unmapped(at: reached) }
      if let before = isShared, before != mapping.isShared { isMixed = true }
      isShared = mapping.isShared
      reached = mapping.end
    }
    guard reached >= end, let isShared else { return .unmapped(at: reached) }
    return isMixed ? .mixed : isShared ? .shared : .isPrivate
  }
}
