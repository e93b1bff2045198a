/// One mapping of a process, as /proc/PID/smaps describes it.
public struct ProcessMapping: Hashable, Sendable {
  /// Its addresses, half open.
  public let addresses: Range<UInt64>
  /// Whether the process may read it.
  public let isReadable: Bool
  /// Whether the process may write it.
  public let isWritable: Bool
  /// Whether the process may run code in it.
  public let isExecutable: Bool
  /// MAP_SHARED, as opposed to a private copy.
  public let isShared: Bool
  /// Where in its file it begins; of no meaning for anonymous memory.
  public let fileOffset: UInt64
  /// The device of the file behind it, as stat(2) numbers it.
  public let device: UInt64
  /// The file behind it; 0 for anonymous memory.
  public let inode: UInt64
  /// The file's path, or the kernel's name in brackets; empty for plain anonymous memory.
  public let name: String
  /// The size of the pages that map it: 4096, or the huge page's.
  public fileprivate(set) var pageByteCount: UInt64
  /// Whether a userfaultfd is registered for its missing pages: an absent page is then not zeros
  /// but whatever the handler has.
  public fileprivate(set) var isUserfaultMissing: Bool

  /// Private memory without a file: what was never touched reads as zeros.
  public var isPrivateAnonymous: Bool { !isShared && inode == 0 }
}

extension ProcessMapping {
  /// smaps takes some 1.3 KiB for a mapping; vm.max_map_count allows 65 530 of them.
  public static let maximumTextByteCount = 96 << 20

  /// All mappings of the process, in the order of their addresses. Needs the right to ptrace it.
  /// The kernel walks its page tables for it: about 10 ms for each GiB, so not on any hot path.
  public static func all(ofPID pid: Int32) throws(SystemError) -> [ProcessMapping] {
    let bytes = try FileSystem.contents(
      ofSmallFile: "/proc/\(pid)/smaps", maximumByteCount: maximumTextByteCount)
    return parse(String(decoding: bytes, as: UTF8.self))
  }

  /// The same from /proc/PID/maps: quick, but every page size is given as 4096 and no userfaultfd
  /// is seen. Empty for a process that has ended and waits to be reaped.
  public static func current(ofPID pid: Int32) throws(SystemError) -> [ProcessMapping] {
    let bytes = try FileSystem.contents(
      ofSmallFile: "/proc/\(pid)/maps", maximumByteCount: maximumTextByteCount)
    return parse(String(decoding: bytes, as: UTF8.self))
  }

  /// Reads the text of smaps, or of maps (then without page sizes and userfaultfd). What it does
  /// not know it leaves out.
  public static func parse(_ text: String) -> [ProcessMapping] {
    var mappings: [ProcessMapping] = []
    for line in text.split(separator: "\n") {
      if let mapping = parseHead(line) {
        mappings.append(mapping)
      } else if let last = mappings.indices.last {
        let fields = line.split(separator: " ")
        if fields.first == "KernelPageSize:", fields.count > 1, let kibibytes = UInt64(fields[1]) {
          mappings[last].pageByteCount = kibibytes << 10
        } else if fields.first == "VmFlags:" {
          mappings[last].isUserfaultMissing = fields.dropFirst().contains("um")
        }
      }
    }
    return mappings
  }

  /// `start-end perms offset device inode name`.
  private static func parseHead(_ line: Substring) -> ProcessMapping? {
    let fields = line.split(separator: " ", maxSplits: 5)
    guard fields.count >= 5, fields[1].utf8.count == 4,
      let addresses = parseRange(fields[0]), let inode = UInt64(fields[4]),
      let offset = UInt64(fields[2], radix: 16),
      let device = DeviceNumber.parse(fields[3], radix: 16)
    else { return nil }
    let name = fields.count > 5 ? String(fields[5].drop { $0 == " " }) : ""
    return ProcessMapping(
      addresses: addresses, isReadable: fields[1].hasPrefix("r"),
      isWritable: fields[1].dropFirst().hasPrefix("w"),
      isExecutable: fields[1].dropFirst(2).hasPrefix("x"), isShared: fields[1].hasSuffix("s"),
      fileOffset: offset, device: device, inode: inode, name: name, pageByteCount: 4096,
      isUserfaultMissing: false)
  }

  /// `start-end` in hexadecimal without prefix; nil unless start < end.
  public static func parseRange(_ text: Substring) -> Range<UInt64>? {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, let start = UInt64(parts[0], radix: 16),
      let end = UInt64(parts[1], radix: 16), start < end
    else { return nil }
    return start..<end
  }
}
