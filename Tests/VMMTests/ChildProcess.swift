import Glibc
import System
import Testing

/// A program that a test started; ended and reaped when the value goes away.
final class ChildProcess: Sendable {
  let pid: pid_t
  private let output: OwnedDescriptor

  /// Starts `path` with these arguments; its standard output is read with `line()`.
  init(_ path: String, _ arguments: [String]) throws {
    var ends: [Int32] = [-1, -1]
    try #require(unsafe pipe2(&ends, O_CLOEXEC) == 0)
    let writeEnd = OwnedDescriptor(adopting: ends[1])
    output = OwnedDescriptor(adopting: ends[0])
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    unsafe posix_spawn_file_actions_adddup2(&actions, writeEnd.rawValue, 1)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    // unsafe: the strings are freed behind the call that reads them.
    var strings = unsafe ([path] + arguments).map { unsafe strdup($0) } + [nil]
    defer { unsafe strings.withUnsafeBufferPointer { unsafe $0.forEach { unsafe free($0) } } }
    var number = pid_t()
    let result = unsafe posix_spawn(&number, path, &actions, nil, &strings, environ)
    try #require(result == 0, "posix_spawn \(path): \(Errno(rawValue: result))")
    pid = number
  }

  deinit {
    kill(pid, SIGKILL)
    _ = waitForEnd()
  }

  /// Waits for the end: how the process ended, as waitpid(2) tells; nil when it was reaped before.
  func waitForEnd() -> Int32? {
    var status: Int32 = 0
    return unsafe waitpid(pid, &status, 0) == pid ? status : nil
  }

  /// Waits for a line on its standard output; nil at the end of it, or after ten seconds.
  func line() -> String? {
    var bytes: [UInt8] = []
    var byte: UInt8 = 0
    while true {
      var entry = pollfd(fd: output.rawValue, events: Int16(POLLIN), revents: 0)
      guard unsafe poll(&entry, 1, 10_000) == 1,
        unsafe Glibc.read(output.rawValue, &byte, 1) == 1
      else { return nil }
      if byte == 0x0A { return String(decoding: bytes, as: UTF8.self) }
      bytes.append(byte)
    }
  }
}
