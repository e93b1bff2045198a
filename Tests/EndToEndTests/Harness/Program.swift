import Glibc
package import Pages
package import System
import Testing

/// Why a test cannot go on.
package struct HarnessError: Error, CustomStringConvertible {
  package var description: String

  package init(description: String) { self.description = description }
}

/// The executables of this package: beside the test bundle, or where POSTCOPY_BINARIES says.
package enum Binaries {
  package static let directory: String = {
    if let path = ProcessEnvironment.value(of: "POSTCOPY_BINARIES") { return path }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let capacity = bytes.count
    // unsafe: readlink fills at most as many bytes as the array has.
    let count = unsafe bytes.withUnsafeMutableBytes {
      unsafe readlink("/proc/self/exe", $0.baseAddress!, capacity)
    }
    let path = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    return path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
  }()

  package static func path(_ name: String) -> String { "\(directory)/\(name)" }
}

/// How long to wait for what must come. Far above what anything needs, also when all tests of the
/// package run beside each other in a debug build under a sanitizer.
package enum Patience {
  package static let usualSeconds: UInt64 = 40

  package static func deadline(seconds: UInt64 = usualSeconds) -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: seconds * 1_000_000_000)
  }
}

/// A real process of a test, and what it has said on both output streams.
///
/// Everything is read by the thread that waits, so nothing is missed and nothing races. What a
/// program says between two waits fits into its pipe.
package final class Program {
  package let name: String
  package let process: ChildProcess
  private let pipe: OwnedDescriptor
  private var unread: [UInt8] = []
  private var hasMore = true
  /// All lines so far.
  package private(set) var lines: [String] = []

  package init(_ name: String, _ arguments: [String]) throws {
    self.name = name
    var ends: [Int32] = [-1, -1]
    try #require(unsafe pipe2(&ends, O_CLOEXEC) == 0)
    let writeEnd = OwnedDescriptor(adopting: ends[1])
    pipe = OwnedDescriptor(adopting: ends[0])
    process = try ChildProcess(arguments, output: writeEnd, error: writeEnd)
  }

  package var pid: Int32 { process.pid }

  /// Waits for a line that `matches` takes; lines that came before count too. An end before it is
  /// an error that shows all that was said.
  @discardableResult
  package func line(
    _ what: String, until deadline: Instant = Patience.deadline(),
    where matches: (String) throws -> Bool
  ) throws -> String {
    var seen = 0
    while true {
      while seen < lines.count {
        if try matches(lines[seen]) { return lines[seen] }
        seen += 1
      }
      guard try readMore(until: deadline) else {
        throw HarnessError(description: "\(name) never said \(what). It said:\n\(transcript)")
      }
    }
  }

  /// Waits for its end and gives it, with everything said until then.
  package func end(until deadline: Instant = Patience.deadline()) throws -> ChildProcess.Ending {
    while try readMore(until: deadline) {}
    guard let ending = process.waitForEnd(until: deadline) else {
      throw HarnessError(description: "\(name) did not end. It said:\n\(transcript)")
    }
    return ending
  }

  /// Whether it has ended by now; no wait.
  package var hasEnded: Bool { process.handle.hasEnded() }

  /// Lets a little time pass unless the process ends meanwhile: between two looks at something
  /// that tells nobody when it changes.
  package func pause() throws {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 5_000_000)
    guard !process.handle.waitUntilEnded(deadline: deadline) else {
      _ = try end()
      throw HarnessError(description: "\(name) has ended. It said:\n\(transcript)")
    }
  }

  package var transcript: String {
    // Progress comes once a second, and would leave no room for what has happened.
    lines.filter { !$0.contains(#""event":"progress""#) }.suffix(24)
      .map { "  \(name): \($0)" }.joined(separator: "\n")
  }

  /// Takes what comes next; false at the end of the stream or when nothing came in time.
  private func readMore(until deadline: Instant) throws -> Bool {
    guard hasMore, try Readiness.wait(for: [pipe.rawValue], until: deadline)[0] else {
      return false
    }
    var bytes = [UInt8](repeating: 0, count: 65_536)
    // unsafe: read gets the length of the array that it fills.
    let count = unsafe bytes.withUnsafeMutableBytes {
      unsafe read(pipe.rawValue, $0.baseAddress, $0.count)
    }
    guard count > 0 else {
      hasMore = false
      return false
    }
    unread += bytes.prefix(count)
    while let newline = unread.firstIndex(of: UInt8(ascii: "\n")) {
      lines.append(String(decoding: unread[..<newline], as: UTF8.self))
      unread.removeSubrange(...newline)
    }
    return true
  }
}
