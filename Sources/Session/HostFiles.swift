internal import System

/// The kernel's small text files about a host, under a root that tests replace.
struct HostFiles: Sendable {
  /// Put in front of /proc and /sys; empty for the real ones.
  let root: String

  init(root: String = "") { self.root = root }

  /// A file without the white space around it; nil when it is not there.
  func text(_ path: String) -> String? { FileSystem.text(ofSmallFile: root + path) }

  /// The first line of a file that has to be there.
  func firstLine(_ path: String) throws(SystemError) -> String {
    let bytes = try FileSystem.contents(ofSmallFile: root + path)
    return String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
  }

  /// The names in a directory, sorted; none when it is not there.
  func entryNames(_ path: String) -> [String] {
    ((try? FileSystem.entryNames(ofDirectory: root + path)) ?? []).sorted()
  }

  /// The names of the directories in one.
  func directoryNames(_ path: String) -> [String] {
    entryNames(path).filter {
      (try? FileStatus.of(path: "\(root)\(path)/\($0)"))?.isDirectory ?? false
    }
  }

  /// A file that holds one number; "max" counts as none.
  func number(_ path: String) -> UInt64? { text(path).flatMap { UInt64($0) } }

  /// The word in brackets of a file such as "always [never] advise".
  func choice(_ path: String) -> String? {
    guard let text = text(path), let open = text.firstIndex(of: "["),
      let close = text[open...].firstIndex(of: "]")
    else { return nil }
    return String(text[text.index(after: open)..<close])
  }

  /// The value of "name value" or "name: value kB" in a file of such lines, as it stands there.
  func value(of name: String, in path: String) -> String? {
    guard let text = text(path) else { return nil }
    for line in text.split(separator: "\n") {
      let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
      guard let first = words.first, words.count > 1 else { continue }
      if first == name || first == name + ":" { return String(words[1]) }
    }
    return nil
  }

  /// A line of /proc/meminfo in bytes.
  func memoryByteCount(_ name: String) -> UInt64? {
    value(of: name, in: "/proc/meminfo").flatMap { UInt64($0) }.map { $0 * 1024 }
  }
}
