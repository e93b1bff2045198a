import Migration
import Pages
import System
import Testing

@testable import Reporting

@Suite("Followers of a console")
struct FollowerTests {
  private let followed = Lock<[String]>([])
  private let shown = Lock<[String]>([])

  private func console(_ progress: ConsoleStyle.Progress) -> Console {
    let followed = followed
    let shown = shown
    return Console(
      vmName: "web1",
      style: ConsoleStyle(progress: progress, minimumLevel: .error, hasColor: false),
      timestamp: { "T" }, follower: { line in followed.withLock { $0.append(line) } },
      sink: { _, text in shown.withLock { $0.append(text) } })
  }

  private func speak(_ console: Console) {
    console.log(.notice, "hello")
    console.tellLost("silence")
    console.tellRestored(address: "a:1", outageNanoseconds: 5)
    console.tellGuestPaused(reason: "silence", isComplete: false)
    console.tellGuestResumed(reason: "back", pausedNanoseconds: 7)
    console.show(
      ProgressSample(
        vm: "web1", phase: "running", elapsedNanoseconds: 1, donePageCount: 2,
        totalPageCount: 3, byteCount: 4, bytesPerSecond: 5),
      now: Instant(nanoseconds: 1))
    console.finish(
      MigrationReport(
        vm: "web1", session: nil, side: "source",
        outcome: Outcome(ending: .parked, reason: nil, source: .stopped, destination: .mayRun),
        mode: "", startedAt: "T", totalNanoseconds: 0))
  }

  @Test("A follower hears everything as JSON, also from a quiet console")
  func everything() {
    speak(console(.none))
    let lines = followed.withLock { $0 }
    #expect(lines.count == 7)
    for (line, event) in zip(
      lines,
      [
        "message", "link-lost", "link-restored", "guest-paused", "guest-resumed", "progress",
        "finished",
      ])
    {
      #expect(line.contains("\"event\":\"\(event)\"") && !line.contains("\n"), "\(line)")
    }
    #expect(shown.withLock { $0 } == [])
  }

  @Test("What one console told, another one says again as if it were its own")
  func relayed() {
    speak(console(.none))
    let lines = followed.withLock { $0 }
    followed.withLock { $0 = [] }
    let second = console(.none)
    for line in lines { second.relay(line) }
    #expect(followed.withLock { $0 } == lines)
    // With --json each line is passed on as it came.
    followed.withLock { $0 = [] }
    let third = console(.json)
    for line in lines + ["no event"] { third.relay(line) }
    third.flush()
    #expect(shown.withLock { $0 } == (lines + ["no event"]).map { $0 + "\n" })
    #expect(followed.withLock { $0 } == [])
  }
}
