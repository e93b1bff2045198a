public import Migration
public import Pages
internal import System

/// A stretch of time between two moments that are known.
public struct Stretch: Hashable, Sendable {
  /// What went on.
  public var name: String
  /// When it began.
  public var start: Instant
  /// When it ended.
  public var end: Instant

  /// That, from then till then; nil when one of them has not come, or they are turned round.
  public init?(_ name: String, _ start: Instant?, _ end: Instant?) {
    guard let start, let end, start <= end else { return nil }
    self.name = name
    self.start = start
    self.end = end
  }

  /// How long it took.
  public var phaseTime: PhaseTime { PhaseTime(name, nanoseconds: end.nanoseconds(since: start)) }
}

/// Puts the course of a session into its trace, the same way for both sides. For the session's own
/// thread; without a file nothing is done.
public final class MigrationTrace {
  /// How long the end of a session waits for the file to be written.
  private static let closeNanoseconds: UInt64 = 2_000_000_000

  private let file: TraceFile?
  private var open: Set<TraceFile.Row> = []
  private var hasBegun = false

  /// A trace that goes there; nil goes nowhere.
  public init(_ file: TraceFile?) { self.file = file }

  /// The session is in that state from now on.
  public func state(_ name: String) { begin(name, on: .session) }

  /// The link is lost.
  public func linkLost(_ reason: String) {
    begin("no link", on: .link, ["reason": reason])
  }

  /// The link is there again.
  public func linkRestored() { end(on: .link) }

  /// The guest was paused for the lost link.
  public func guestPaused() { begin("paused", on: .guest) }

  /// The guest runs on.
  public func guestResumed() { end(on: .guest) }

  /// A round has ended just now.
  public func round(
    _ number: UInt64, _ result: SeedRoundResult, verdict: String, now: Instant
  ) {
    let start = Instant(nanoseconds: now.nanoseconds - min(now.nanoseconds, result.nanoseconds))
    file?.slice(
      "round \(number)", on: .rounds, from: start, to: now,
      [
        "sent": Amounts.bytes(result.sentByteCount),
        "written meanwhile": Amounts.bytes(result.dirtiedByteCount), "verdict": verdict,
        "look": Amounts.duration(nanoseconds: result.lookNanoseconds),
      ])
    if let rate = result.dirtyRate { file?.count("written by the guest, bytes/s", UInt64(rate)) }
  }

  /// How far it is.
  public func progress(_ sample: ProgressSample) {
    file?.count(
      "pages left", sample.totalPageCount - min(sample.donePageCount, sample.totalPageCount))
    file?.count("bytes/s", sample.bytesPerSecond)
    if let faults = sample.faultCount { file?.count("faults", faults) }
  }

  /// The operator has set another cap of what is sent; nil: none any more.
  public func bandwidthLimited(bytesPerSecond: UInt64?) {
    let limit = bytesPerSecond.map { Amounts.rate(bytesPerSecond: $0) } ?? "none"
    file?.mark("bandwidth limit: \(limit)", on: .session)
  }

  /// The session is over, with these stretches of its hand-over. Returns what is wrong with the
  /// file, if something is.
  public func finish(_ outcome: Outcome, _ stretches: [Stretch] = []) -> String? {
    guard let file else { return nil }
    for stretch in stretches {
      file.slice(stretch.name, on: .handOver, from: stretch.start, to: stretch.end)
    }
    for row in TraceFile.Row.allCases where open.contains(row) { file.end(on: row) }
    // Of a session that was refused before it began nothing is told: the file is another's.
    if hasBegun { file.mark(OperatorMessage.verdict(of: outcome.ending), on: .session) }
    return file.close(
      until: MonotonicClock.now().advanced(byNanoseconds: Self.closeNanoseconds))
  }

  private func begin(_ name: String, on row: TraceFile.Row, _ facts: [String: String] = [:]) {
    end(on: row)
    open.insert(row)
    hasBegun = true
    file?.begin(name, on: row, facts)
  }

  private func end(on row: TraceFile.Row) {
    guard open.remove(row) != nil else { return }
    file?.end(on: row)
  }
}
