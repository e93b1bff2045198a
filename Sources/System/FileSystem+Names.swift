internal import CLinux
internal import Glibc

extension FileSystem {
  /// The names in a directory, without "." and "..", in no particular order. What is added or
  /// removed meanwhile may be among them or not.
  public static func entryNames(ofDirectory path: String) throws(SystemError) -> [String] {
    guard let stream = unsafe opendir(path) else { throw SystemError("opendir", path) }
    // unsafe: opened above, closed here and nowhere else.
    defer { unsafe closedir(stream) }
    var names: [String] = []
    // unsafe: an entry is valid until the next readdir; its name is copied at once.
    while let entry = unsafe readdir(stream) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }

  /// What a symbolic link says; nil when it is none, cannot be read, or says more than 4095 bytes.
  public static func linkTarget(_ path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    // unsafe: the buffer is as long as the call is told.
    let count = unsafe buffer.withUnsafeMutableBytes {
      unsafe readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
    }
    return count < 0 || count == buffer.count
      ? nil : String(decoding: buffer[..<count], as: UTF8.self)
  }

  /// The one absolute name of a file or directory that exists, without symbolic links.
  public static func resolvedPath(_ path: String) throws(SystemError) -> String {
    // unsafe: realpath allocates the result, which is copied and freed here.
    guard let text = unsafe realpath(path, nil) else { throw SystemError("realpath", path) }
    defer { unsafe free(text) }
    return unsafe String(cString: text)
  }

  /// The same place, named from the root: a process with another working directory finds it too.
  /// Nothing needs to exist.
  public static func absolutePath(_ path: String) throws(SystemError) -> String {
    path.hasPrefix("/") ? path : try resolvedPath(".") + "/" + path
  }

  /// Lets relative paths of this process begin there.
  public static func changeDirectory(_ path: String) throws(SystemError) {
    guard unsafe chdir(path) == 0 else { throw SystemError("chdir", path) }
  }

  /// Puts a file with these bytes under that name, whole or not at all, also when the host loses
  /// power: written beside it under another name, made durable, renamed over it. One that is not
  /// durable waits for no disk, and may be another one after a loss of power.
  public static func replaceFile(
    _ path: String, with bytes: [UInt8], permissions: UInt32, isDurable: Bool = true
  ) throws(SystemError) {
    let slash = path.lastIndex(of: "/")
    let draft = path + ".new"
    // What a killed writer left under the draft's name is nobody's.
    try removeFile(draft)
    do throws(SystemError) {
      let file = try OwnedDescriptor.open(
        draft, flags: O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: permissions)
      try file.writeAll(bytes, atOffset: 0, operand: draft)
      if isDurable { try file.synchronize(operand: draft) }
      guard unsafe Glibc.rename(draft, path) == 0 else { throw SystemError("rename", path) }
    } catch {
      try? removeFile(draft)
      throw error
    }
    guard isDurable else { return }
    try synchronizeDirectory(slash.map { String(path[...$0]) } ?? ".")
  }
}

/// The program that this process runs.
public enum OwnExecutable {
  /// Starts the very same program again, also after its file was replaced by a newer one.
  public static let path = "/proc/self/exe"

  /// The directory where its file is; nil when the kernel does not tell.
  public static var directory: String? {
    guard let file = FileSystem.linkTarget(path), let slash = file.lastIndex(of: "/") else {
      return nil
    }
    return slash == file.startIndex ? "/" : String(file[..<slash])
  }

  /// Replaces this process's program; returns only to say why it could not. Everything that is
  /// close-on-exec goes; other threads end.
  public static func replace(with program: String, arguments: [String]) -> SystemError {
    // unsafe: the strings are ours until they are freed, behind the call that reads them.
    var strings = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { unsafe strings.withUnsafeBufferPointer { unsafe $0.forEach { unsafe free($0) } } }
    _ = unsafe execv(program, &strings)
    return SystemError("execv", program)
  }
}
