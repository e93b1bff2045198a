import Glibc
import System
import Testing

/// A directory of one test's own; removed with all that is in it, whatever happens.
package final class Workspace {
  package let path: String

  /// Under /tmp, because the path of a socket has at most 107 bytes.
  package init() throws {
    let digits = try RandomBytes.make(6).map { String($0, radix: 16) }.joined()
    path = "/tmp/postcopy-e2e-\(getpid())-\(digits)"
    try FileSystem.createDirectories(path, permissions: 0o700)
  }

  deinit { Self.remove(path) }

  /// The path of something in it.
  package func file(_ name: String) -> String { "\(path)/\(name)" }

  /// Makes a file.
  package func write(_ bytes: [UInt8], to name: String) throws -> String {
    let descriptor = try OwnedDescriptor.open(
      file(name), flags: O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
    try descriptor.writeAll(bytes, atOffset: 0, operand: name)
    return file(name)
  }

  /// What is in a directory, by name; empty when there is none.
  package static func names(in path: String) -> [String] {
    guard let directory = unsafe opendir(path) else { return [] }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    // unsafe: the stream is open until the function ends, and each entry is read at once.
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// Removes a directory with all that is in it.
  package static func remove(_ path: String) {
    for name in names(in: path) where unsafe unlink("\(path)/\(name)") != 0 {
      remove("\(path)/\(name)")
    }
    _ = unsafe rmdir(path)
  }
}
