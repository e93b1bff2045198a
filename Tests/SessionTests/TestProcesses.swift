import Glibc
import Pages
import Session
import System
import Testing

/// Why a test with real processes cannot go on.
struct TestProcessError: Error, CustomStringConvertible {
  var description: String
}

/// One of the processes of SessionTestWorker, and what it and its children have said. A worker that
/// it starts writes to the same pipe.
final class TestProcess {
  private static let executable =
    (OwnExecutable.directory ?? ".") + "/SessionTestWorker"
  /// Far above what anything here needs, also under a sanitizer on a busy machine.
  private static let patienceNanoseconds: UInt64 = 60_000_000_000

  let process: ChildProcess
  private let pipe: OwnedDescriptor
  private var unread: [UInt8] = []
  private(set) var lines: [String] = []
  /// Lines before this one were waited for already.
  private var seenCount = 0

  init(_ arguments: String...) throws {
    var ends: [Int32] = [-1, -1]
    try #require(unsafe pipe2(&ends, O_CLOEXEC) == 0)
    let writeEnd = OwnedDescriptor(adopting: ends[1])
    pipe = OwnedDescriptor(adopting: ends[0])
    process = try ChildProcess(
      [Self.executable] + arguments, output: writeEnd, error: writeEnd)
  }

  var pid: Int32 { process.pid }

  var hasEnded: Bool { process.handle.hasEnded() }

  /// Waits for the next line that begins so, and gives the rest of it.
  @discardableResult
  func line(_ beginning: String) throws -> String {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.patienceNanoseconds)
    while true {
      while seenCount < lines.count {
        let line = lines[seenCount]
        seenCount += 1
        if line.hasPrefix(beginning) {
          return String(line.dropFirst(beginning.count).drop { $0 == " " })
        }
      }
      guard try readMore(until: deadline) else {
        throw TestProcessError(
          description: "nobody said “\(beginning)”, but:\n" + lines.joined(separator: "\n"))
      }
    }
  }

  /// Waits for the line of a worker that is ready, and gives its process id.
  func worker(_ mode: String) throws -> Int32 {
    let words = try line("worker").split(separator: " ")
    try #require(words.count == 4 && words[1] == mode, "\(words)")
    // A session of its own: no terminal reaches it.
    #expect(words[3] == "true")
    return try #require(Int32(words[0]))
  }

  /// Waits for its end. What its workers say later is not read.
  func end() throws -> ChildProcess.Ending {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.patienceNanoseconds)
    guard let ending = process.waitForEnd(until: deadline) else {
      throw TestProcessError(description: "it does not end:\n" + lines.joined(separator: "\n"))
    }
    while try Readiness.wait(for: [pipe.rawValue], until: MonotonicClock.now())[0] {
      guard try readMore(until: deadline) else { break }
    }
    return ending
  }

  private func readMore(until deadline: Instant) throws -> Bool {
    guard try Readiness.wait(for: [pipe.rawValue], until: deadline)[0] else { return false }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = try pipe.read(into: &bytes, operand: "the test's pipe")
    guard count > 0 else { return false }
    unread += bytes.prefix(count)
    while let newline = unread.firstIndex(of: UInt8(ascii: "\n")) {
      lines.append(String(decoding: unread[..<newline], as: UTF8.self))
      unread.removeSubrange(...newline)
    }
    return true
  }
}

/// A process that the test did not start itself, and ends with the test.
final class OtherProcess {
  private let handle: ProcessHandle

  init(pid: Int32) throws { handle = try ProcessHandle.open(pid: pid) }

  deinit { try? handle.kill() }

  var hasEnded: Bool { handle.hasEnded() }

  func send(signal: Int32) throws { try handle.send(signal: signal) }

  func kill() throws {
    try handle.kill()
    try waitForEnd()
  }

  func waitForEnd() throws {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
    let hasEnded = handle.waitUntilEnded(deadline: deadline)
    try #require(hasEnded)
  }
}
