import Glibc
import System
import Testing

/// A directory of a test's own, removed with all that is in it.
final class ScratchDirectory: Sendable {
  let path: String

  /// Under /dev/shm, which is a tmpfs everywhere; `parent` for another place.
  init(parent: String = "/dev/shm") throws {
    let digits = try RandomBytes.make(8).map { String($0, radix: 16) }.joined()
    path = "\(parent)/postcopy-test-\(getpid())-\(digits)"
    try FileSystem.createDirectories(path, permissions: 0o700)
  }

  deinit { Self.remove(path) }

  func path(_ name: String) -> String { "\(path)/\(name)" }

  func write(_ bytes: [UInt8], to name: String, permissions: UInt32 = 0o600) throws {
    let file = try OwnedDescriptor.open(
      path(name), flags: O_WRONLY | O_CREAT | O_TRUNC, mode: permissions)
    try file.writeAll(bytes, atOffset: 0, operand: name)
    try #require(fchmod(file.rawValue, permissions) == 0)
  }

  func write(_ text: String, to name: String) throws {
    if let slash = name.lastIndex(of: "/") {
      try FileSystem.createDirectories(path(String(name[..<slash])), permissions: 0o700)
    }
    try write(Array(text.utf8), to: name)
  }

  private static func remove(_ path: String) {
    guard let directory = unsafe opendir(path) else {
      _ = unsafe unlink(path)
      return
    }
    // unsafe: the stream is open until closedir, and each entry is used before the next readdir.
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != ".", name != ".." { remove("\(path)/\(name)") }
    }
    unsafe closedir(directory)
    _ = unsafe rmdir(path)
  }
}
