import Migration
import Pages
import System
import Testing

@testable import Reporting

/// A reader that stands still until it is told to go on, and what it has read.
private final class StuckReader: Sendable {
  let lines = Lock<[String]>([])
  /// Readable once a line is on its way to the reader.
  let isReached: WakeEvent
  /// Readable, for ever, once the reader goes on.
  private let isReleased: WakeEvent

  init() throws {
    isReached = try WakeEvent()
    isReleased = try WakeEvent()
  }

  func read(_ text: String) {
    isReached.signal()
    _ = try? Readiness.wait(for: [isReleased.rawValue])
    lines.withLock { $0.append(text) }
  }

  func release() { isReleased.signal() }
}

@Suite("A console nobody reads", .timeLimit(.minutes(5)))
struct StuckConsoleTests {
  private static let never: UInt64 = 3_600_000_000_000

  private let reader: StuckReader

  init() throws { reader = try StuckReader() }

  private func console(
    _ progress: ConsoleStyle.Progress = .plain, flushLimitNanoseconds: UInt64 = never
  ) -> Console {
    let reader = reader
    return Console(
      vmName: "web1",
      style: ConsoleStyle(progress: progress, minimumLevel: .notice, hasColor: false),
      timestamp: { "T" }, flushLimitNanoseconds: flushLimitNanoseconds,
      sink: { _, text in reader.read(text) })
  }

  private func line(_ text: String) -> String { "T notice VM web1: \(text)\n" }

  /// Says one thing and waits until the writer is stuck in it: the queue is empty behind it.
  private func stick(_ console: Console) throws {
    console.log(.notice, "first")
    let deadline = MonotonicClock.now().advanced(byNanoseconds: 30_000_000_000)
    #expect(try Readiness.wait(for: [reader.isReached.rawValue], until: deadline) == [true])
  }

  private func sample(_ phase: String) -> ProgressSample {
    ProgressSample(
      vm: "web1", phase: phase, elapsedNanoseconds: 0, donePageCount: 0, totalPageCount: 1,
      byteCount: 0, bytesPerSecond: 0)
  }

  @Test("Messages and progress do not wait; a healthy reader then gets all messages in order")
  func order() throws {
    let console = console()
    try stick(console)
    for number in 0..<100 { console.log(.notice, "\(number)") }
    for number in 0..<100 { console.show(sample("p\(number)"), now: Instant(nanoseconds: 0)) }
    #expect(reader.lines.withLock { $0.isEmpty })
    reader.release()
    console.finish(ReportTests.report())
    let expected =
      ["first"].map(line) + (0..<100).map { line("\($0)") } + [ReportTests.report().text() + "\n"]
    #expect(reader.lines.withLock { $0 } == expected, "the progress was dropped, nothing else")
  }

  @Test("No more progress waits than a reader that is only slow may be behind")
  func progress() throws {
    let console = console()
    try stick(console)
    for number in 0..<100 { console.show(sample("p\(number)"), now: Instant(nanoseconds: 0)) }
    reader.release()
    #expect(console.flush())
    #expect(reader.lines.withLock { $0.count } == 1 + ConsoleWriter.progressCapacity)
  }

  @Test("What finds no room is counted, and that is said before the next line")
  func dropped() throws {
    let console = console()
    try stick(console)
    let room = ConsoleWriter.capacity - ConsoleWriter.Priority.ordinary.reservedCount
    for number in 0..<room + 7 { console.log(.notice, "\(number)") }
    reader.release()
    #expect(console.flush())
    #expect(reader.lines.withLock { $0.count } == 1 + room)
    console.log(.notice, "again")
    #expect(console.flush())
    #expect(
      reader.lines.withLock { $0.suffix(3) } == [
        line("\(room - 1)"), "T warning VM web1: 7 messages were dropped: nobody read\n",
        line("again"),
      ])
  }

  @Test("The report finds room in a full queue, behind word of what was dropped")
  func fullQueue() throws {
    let console = console(.json)
    try stick(console)
    for _ in 0...ConsoleWriter.capacity { console.log(.notice, "x") }
    reader.release()
    console.finish(ReportTests.report())
    let lines = reader.lines.withLock { $0 }
    #expect(lines.last?.contains(#""event":"finished""#) == true)
    #expect(lines.dropLast().last?.contains("17 messages were dropped") == true)
  }

  @Test("A reader that never reads holds neither an error nor the report for longer than the limit")
  func bounded() throws {
    do {
      let console = console(flushLimitNanoseconds: 1_000_000)
      try stick(console)
      console.log(.error, "a bug of ours")
      console.say(
        OperatorMessage(
          Outcome(ending: .aborted, reason: nil, source: .runs, destination: .killed),
          vmName: "web1"))
      console.finish(ReportTests.report())
      #expect(!console.flush())
      // That these calls, and the console's end, return while the reader stands still is the test.
    }
    #expect(reader.lines.withLock { $0.isEmpty })
    reader.release()
  }

  @Test("An error is written when the call returns, without a report")
  func error() {
    let console = console()
    reader.release()
    console.log(.notice, "first")
    console.log(.error, "last")
    #expect(
      reader.lines.withLock { $0 } == [line("first"), "T error VM web1: last\n"])
  }
}
