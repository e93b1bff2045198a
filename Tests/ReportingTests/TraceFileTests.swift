import CLinux
import Glibc
import Migration
import Pages
import System
import Testing
import Wire

@testable import Reporting

@Suite("Trace files")
struct TraceFileTests {
  private let path = "/tmp/postcopy-trace-\(getpid())-\(UInt64.random(in: 0...UInt64.max))"

  /// What can be asked of an event.
  private struct Event: Decodable {
    var name: String?
    var ph: String
    var ts: Double
    var dur: Double?
    var tid: Int
    var args: [String: Value]?

    enum Value: Decodable, Equatable {
      case text(String)
      case count(UInt64)

      init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let count = try? container.decode(UInt64.self) {
          self = .count(count)
        } else {
          self = .text(try container.decode(String.self))
        }
      }
    }
  }

  private func soon() -> Instant { MonotonicClock.now().advanced(byNanoseconds: 30_000_000_000) }

  private func text() throws -> String {
    let file = try OwnedDescriptor.open(path, flags: O_RDONLY)
    let bytes = try file.read(
      byteCount: Int(try FileStatus.of(path: path).byteCount), atOffset: 0, operand: path)
    return String(decoding: bytes, as: UTF8.self)
  }

  private func write(_ text: String) throws {
    let file = try OwnedDescriptor.open(path, flags: O_WRONLY | O_CREAT | O_TRUNC)
    try file.writeAll(Array(text.utf8), atOffset: 0, operand: path)
  }

  /// The events but for the names of rows; the file must be JSON as a whole.
  private func events() throws -> [Event] {
    let all = try #require(JSONText.value([Event].self, of: try text()))
    return all.filter { $0.ph != "M" }
  }

  @Test("A session's course is one JSON array, with times that go on")
  func course() throws {
    defer { unsafe unlink(path) }
    let trace = MigrationTrace(try TraceFile(path: path, isContinued: false, process: "source web"))
    trace.state("preparing")
    trace.state("seeding")
    trace.linkLost("silence, \"quoted\"")
    trace.linkRestored()
    trace.linkRestored()
    var round = SeedRoundResult(
      sentByteCount: 4096, nanoseconds: 5_000_000, dirtiedByteCount: 8192)
    round.lookNanoseconds = 1_000_000
    trace.round(1, round, verdict: "going on", now: MonotonicClock.now())
    trace.progress(
      ProgressSample(
        vm: "web", phase: "seeding", elapsedNanoseconds: 1, donePageCount: 2, totalPageCount: 5,
        byteCount: 3, bytesPerSecond: 7))
    let now = MonotonicClock.now()
    let stretch = Stretch("pause", now, now.advanced(byNanoseconds: 1_500_000))
    let outcome = Outcome(
      ending: .completed, reason: nil, source: .disabled, destination: .runs)
    #expect(trace.finish(outcome, [stretch].compactMap { $0 }) == nil)
    let events = try events()
    #expect(events.map(\.ph) == ["B", "E", "B", "B", "E", "X", "C", "C", "C", "X", "E", "i"])
    #expect(
      events.compactMap(\.name) == [
        "preparing", "seeding", "no link", "round 1", "written by the guest, bytes/s",
        "pages left", "bytes/s", "pause", "completed",
      ])
    #expect(events[3].args?["reason"] == .text("silence, \"quoted\""))
    #expect(events[5].dur == 5000 && events[9].dur == 1500)
    #expect(events[7].args == ["value": .count(3)])
    for (event, next) in zip(events, events.dropFirst()) where event.ph != "X" && next.ph != "X" {
      #expect(event.ts <= next.ts)
    }
    let wall = Double(WallClock.nanosecondsSince1970()) / 1000
    #expect(events.allSatisfy { abs(wall - $0.ts) < 600_000_000 })
  }

  @Test("A killed process's file is gone on with from its last whole line")
  func continued() throws {
    defer { unsafe unlink(path) }
    do {
      let first = try TraceFile(path: path, isContinued: false, process: "first")
      first.mark("one", on: .session)
      #expect(first.close(until: soon()) == nil)
    }
    let whole = try text()
    #expect(whole.hasSuffix("\n]\n"))
    // Killed before the end was written, in the middle of a line, and in the middle of the end.
    for cut in [
      whole, String(whole.dropLast(2)), whole.dropLast(2) + ",{\"name\":\"tw",
      whole.dropLast(1) + "",
    ] {
      try write(String(cut))
      let next = try TraceFile(path: path, isContinued: true, process: "next")
      next.mark("two", on: .session)
      #expect(next.close(until: soon()) == nil)
      #expect(try events().map(\.name) == ["one", "two"], "behind \(cut.suffix(20))")
    }
  }

  @Test(
    "What is no trace, or only begun, is begun anew",
    arguments: ["", "[", "[\n", "hello\n", "[\n{\"na"])
  func begunAnew(text: String) throws {
    defer { unsafe unlink(path) }
    try write(text)
    let trace = try TraceFile(path: path, isContinued: true, process: "next")
    trace.mark("two", on: .session)
    #expect(trace.close(until: soon()) == nil)
    #expect(try events().map(\.name) == ["two"])
  }

  @Test("A file that another process writes is refused, and one that cannot be made")
  func refused() throws {
    defer { unsafe unlink(path) }
    let first = try TraceFile(path: path, isContinued: false, process: "first")
    let error = #expect(throws: TraceFileError.self) {
      try TraceFile(path: path, isContinued: false, process: "second")
    }
    #expect(error?.description.contains("a file of its own") == true)
    #expect(first.close(until: soon()) == nil)
    for path in ["/nonexistent/trace", "/dev/null", "/tmp"] {
      #expect(throws: TraceFileError.self) {
        try TraceFile(path: path, isContinued: false, process: "third")
      }
    }
  }

  @Test("A file of which nothing was told stays as it was, also behind a session that was refused")
  func untouched() throws {
    defer { unsafe unlink(path) }
    try write("[\n{\"another's\":1}\n]\n")
    let refused = Outcome(
      ending: .refused, reason: nil, source: .untouched, destination: .untouched)
    let trace = MigrationTrace(try TraceFile(path: path, isContinued: false, process: "second"))
    #expect(trace.finish(refused) == nil)
    #expect(try text() == "[\n{\"another's\":1}\n]\n")
  }

  @Test("A file system that is full is told at the end, and holds nobody up")
  func full() throws {
    // A file that cannot grow.
    let file = OwnedDescriptor(
      adopting: unsafe clinux_memfd_create("full", UInt32(MFD_ALLOW_SEALING)))
    #expect(clinux_fcntl_int(file.rawValue, F_ADD_SEALS, F_SEAL_GROW) == 0)
    let trace = try TraceFile(
      path: "/proc/self/fd/\(file.rawValue)", isContinued: false, process: "full")
    for _ in 0..<100 { trace.mark("event", on: .session) }
    #expect(trace.close(until: soon())?.contains("not whole") == true)
  }
}
