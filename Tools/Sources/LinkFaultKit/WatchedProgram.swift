internal import CLinux
internal import Glibc
public import Pages
public import System

/// A program whose lines are stamped as they come, on this host's monotonic clock.
public final class WatchedProgram: Sendable {
  /// A line and when it was read.
  public struct Line: Sendable {
    /// Without its end.
    public let text: String
    /// When it was read: less than a scheduling delay behind its writing.
    public let read: Instant
  }

  /// The program.
  public let process: ChildProcess
  private let lines = Lock<[Line]>([])
  private let hasEnded = Lock(false)
  private let news: WakeEvent

  /// Starts it, and a thread that reads what it says on both output streams.
  public init(_ arguments: [String]) throws(SystemError) {
    var ends: [Int32] = [-1, -1]
    // unsafe: the kernel fills the two places of the array.
    guard unsafe pipe2(&ends, O_CLOEXEC) == 0 else { throw SystemError("pipe2") }
    let readEnd = OwnedDescriptor(adopting: ends[0])
    let writeEnd = OwnedDescriptor(adopting: ends[1])
    process = try ChildProcess(arguments, output: writeEnd, error: writeEnd)
    news = try WakeEvent()
    let number = readEnd.release()
    // Ends when the program has: nobody else has the pipe's other end.
    Self.leave(try WorkerThread(name: "reader") { [self] in read(number) })
  }

  /// The reader ends with the program's output; nobody waits for it.
  private static func leave(_ thread: consuming WorkerThread) {}

  private func read(_ number: Int32) {
    let descriptor = OwnedDescriptor(adopting: number)
    var unread: [UInt8] = []
    var bytes = [UInt8](repeating: 0, count: 65_536)
    while true {
      // unsafe: read gets the length of the array that it fills.
      let count = unsafe bytes.withUnsafeMutableBytes {
        unsafe Glibc.read(descriptor.rawValue, $0.baseAddress, $0.count)
      }
      let now = MonotonicClock.now()
      if count < 0, Errno.current == .interrupted { continue }
      guard count > 0 else { break }
      unread += bytes.prefix(count)
      while let newline = unread.firstIndex(of: 0x0A) {
        let text = String(decoding: unread[..<newline], as: UTF8.self)
        unread.removeSubrange(...newline)
        lines.withLock { $0.append(Line(text: text, read: now)) }
      }
      news.signal()
    }
    hasEnded.withLock { $0 = true }
    news.signal()
  }

  /// How many lines it has said so far.
  public var lineCount: Int { lines.withLock { $0.count } }

  /// All that it has said, for whoever looks for a reason.
  public var transcript: String {
    lines.withLock { $0.suffix(10).map(\.text).joined(separator: "\n") }
  }

  /// The first line from number `start` on that `matches` takes; nil when the program ends or the
  /// deadline passes without one. One waiting thread at a time.
  public func line(
    from start: Int = 0, until deadline: Instant, where matches: (String) -> Bool
  ) throws(SystemError) -> Line? {
    var seen = start
    while true {
      let all = lines.withLock { $0 }
      while seen < all.count {
        if matches(all[seen].text) { return all[seen] }
        seen += 1
      }
      if hasEnded.withLock({ $0 }), seen == lineCount { return nil }
      guard try Readiness.wait(for: [news.rawValue], until: deadline)[0] else { return nil }
      news.drain()
    }
  }
}
