import Migration
import PageServer
import Pages
import Reporting
import Session
import System
import VMM
import Wire

/// Puts what happens at the source into words.
final class SendReporter {
  private let vmName: String
  private let mode: String
  private let console: Console
  /// Where the course of the session is drawn.
  var trace = MigrationTrace(nil)
  private let startedAt = WallClock.timestamp()
  private var rate = RateMeter()
  private var timeLeft = TimeLeft()
  /// Until the last page, as it went lately; nil while that cannot be told.
  private(set) var nanosecondsLeft: UInt64?
  /// Rounds that end before are told with -v alone.
  private var nextRoundTold = Instant(nanoseconds: 0)
  private var rounds: RoundsTally?

  init(vmName: String, mode: String, console: Console) {
    self.vmName = vmName
    self.mode = mode
    self.console = console
  }

  func note(_ note: SourceNote) {
    switch note {
    case .listening(let endpoint):
      console.log(.notice, "waiting for the destination at \(endpoint)")
    case .stranger(let peer, let error): console.log(.warning, "\(peer) was sent away: \(error)")
    case .refused(let peer, let refusal):
      console.log(.warning, "\(peer) was refused: \(refusal.reason)")
    case .joined(let peer): console.log(.notice, "the destination is connected from \(peer)")
    case .left(let reason):
      console.log(
        .warning,
        "the destination left before anything was changed (\(reason.reason)); the VM runs on here "
          + "and another destination may dial")
    case .recovered(let state):
      console.log(.notice, "an earlier process's session is taken up: \(state)")
      trace.state("\(state)")
    case .lost(let reason):
      console.tellLost(reason.reason)
      trace.linkLost(reason.reason)
    case .restored(let peer, let outage):
      console.tellRestored(address: peer, outageNanoseconds: outage)
      trace.linkRestored()
    case .state(let state):
      console.log(.debug, "state: \(state)")
      trace.state("\(state)")
    case .seedRound(let note): tell(note)
    case .bandwidthLimited(let bytesPerSecond):
      trace.bandwidthLimited(bytesPerSecond: bytesPerSecond)
      console.log(
        .notice, "bandwidth: \(bytesPerSecond.map { "at most \($0) bytes a second" } ?? "no limit")"
      )
    case .stopRefused(let reason): console.log(.warning, reason.reason)
    case .signalIgnored(let signal): console.log(.debug, "\(signal.name) ends nothing")
    case .leftThrottle(.restored(let group)):
      console.log(
        .warning,
        "control group \(group) has its bound of processor time again, which a migration that "
          + "died had lowered")
    case .leftThrottle(.stuck(let reason)), .throttleProblem(let reason):
      console.log(.warning, reason)
    case .progress(let progress): show(progress)
    }
  }

  private func tell(_ note: SeedRoundNote) {
    let result = note.result
    let lookPause = (rounds?.lookPauseNanoseconds ?? 0) + note.lookPauseNanoseconds
    rounds = RoundsTally(
      count: note.number, tracking: note.tracking.rawValue,
      longestLookNanoseconds: max(result.lookNanoseconds, rounds?.longestLookNanoseconds ?? 0),
      throttlePercent: note.throttlePercent,
      throttleMeans: note.throttleMeans?.rawValue,
      predictedDowntimeNanoseconds: note.predictedDowntimeNanoseconds,
      lookPauseNanoseconds: lookPause > 0 ? lookPause : nil)
    let mebibyte = 1_048_576.0
    func mebibytes(_ bytes: Double) -> String {
      String(UInt64((bytes / mebibyte).rounded())) + " MiB"
    }
    var text =
      "round \(note.number): \(mebibytes(Double(result.sentByteCount))) sent in "
      + "\(result.nanoseconds / 1_000_000) ms, "
      + "\(mebibytes(Double(result.dirtiedByteCount))) written meanwhile"
    if note.throttlePercent > 0 {
      text += "; the guest loses \(note.throttlePercent) % of its time"
      if let means = note.throttleMeans { text += " (by \(means.rawValue))" }
    }
    if note.lookPauseNanoseconds > 0 {
      text += "; the VM was paused for \(note.lookPauseNanoseconds / 1_000) µs to see that"
    }
    let verdict = Self.words(for: note.verdict)
    if note.verdict != .goOn(obstacle: nil) { text += "; \(verdict)" }
    // A guest that does not come to fit has hundreds of rounds a second: not each is news.
    let now = MonotonicClock.now()
    trace.round(note.number, result, verdict: verdict, now: now)
    let isNews =
      if case .goOn = note.verdict { now >= nextRoundTold } else { true }
    if isNews { nextRoundTold = now.advanced(byNanoseconds: Self.roundRestNanoseconds) }
    console.log(isNews ? .notice : .debug, text)
  }

  private static let roundRestNanoseconds: UInt64 = 200_000_000

  private static func words(for verdict: RoundVerdict) -> String {
    switch verdict {
    case .goOn(nil): "going on"
    case .goOn(let obstacle?): "going on, though \(obstacle.rawValue)"
    case .switchOver(let reason): "switching: \(reason.rawValue)"
    case .stay(let reason): "giving up: \(reason.rawValue)"
    }
  }

  private func show(_ progress: SourceProgress) {
    guard let counts = progress.counts else { return }
    let done = min(counts.settledPageCount, progress.totalPageCount)
    let bytes = counts.urgentByteCount + counts.bulkByteCount
    nanosecondsLeft = timeLeft.nanoseconds(
      donePageCount: done, totalPageCount: progress.totalPageCount,
      elapsedNanoseconds: progress.elapsedNanoseconds)
    let sample = ProgressSample(
      vm: vmName, phase: "\(progress.state)", elapsedNanoseconds: progress.elapsedNanoseconds,
      donePageCount: done, totalPageCount: progress.totalPageCount, byteCount: bytes,
      bytesPerSecond: rate.bytesPerSecond(
        byteCount: bytes, elapsedNanoseconds: progress.elapsedNanoseconds),
      nanosecondsLeft: nanosecondsLeft)
    console.show(sample, now: MonotonicClock.now())
    trace.progress(sample)
  }

  /// Says that the program itself failed; both hosts keep what they hold.
  func fail(_ error: SystemError) {
    console.log(
      .error,
      "a bug of ours ended this side: \(error). Start the VM on neither host by hand; look at both "
        + "sides' reports first")
  }

  /// Says how it ended, when nothing had begun. The exit code.
  func finish(_ refusal: Refusal) -> Int32 {
    let outcome = Outcome(
      ending: .refused, reason: refusal, source: .untouched, destination: .untouched)
    let report = MigrationReport(
      vm: vmName, session: nil, side: "source", outcome: outcome, mode: mode,
      startedAt: startedAt, totalNanoseconds: 0)
    endTrace(outcome)
    tell(outcome, report)
    return outcome.ending.exitCode
  }

  /// Says how it ended.
  func finish(_ result: SourceResult) {
    var report = MigrationReport(
      vm: vmName, session: result.session?.text, side: "source", outcome: result.outcome,
      mode: mode, startedAt: startedAt, totalNanoseconds: result.totalNanoseconds)
    report.downtime = Self.downtime(result)
    report.pages.total = result.totalPageCount
    if let counts = result.counts { Self.add(counts, result.times, to: &report) }
    report.guest = result.guest.flatMap { guest in
      guest.operationCount.map {
        GuestProgress(
          operationsBeforeFreeze: $0, operationsAfterStart: 0,
          mismatches: UInt64(guest.mismatchCount))
      }
    }
    report.rounds = rounds
    // Of looks that no round came of; the very first one has no tally yet to be told in.
    if result.lookPauseNanoseconds > 0 {
      console.log(
        .notice,
        "the VM was paused for \(result.lookPauseNanoseconds / 1_000) µs for looks that no round "
          + "came of")
      let told = report.rounds?.lookPauseNanoseconds ?? 0
      report.rounds?.lookPauseNanoseconds = told + result.lookPauseNanoseconds
    }
    report.phases = Self.phases(result.times).map(\.phaseTime)
    endTrace(result.outcome, Self.phases(result.times) + Self.steps(result.times))
    tell(result.outcome, report)
  }

  private func endTrace(_ outcome: Outcome, _ stretches: [Stretch] = []) {
    if let problem = trace.finish(outcome, stretches) { console.log(.warning, problem) }
  }

  private static func add(
    _ counts: SourceCounts, _ times: SourceTimes, to report: inout MigrationReport
  ) {
    report.pages.data = counts.demandedDataPageCount + counts.pushedDataPageCount
    if times.seeding != nil {
      report.pages.seeded =
        counts.seededDataPageCount + counts.seededZeroPageCount + counts.seededSamePageCount
    }
    report.pages.zero =
      counts.absentPageCount + counts.demandedZeroPageCount + counts.pushedZeroPageCount
    report.pages.poisoned = counts.poisonedPageCount
    let same = PackedCounts(
      pageByteCount: counts.seededSamePageCount * UInt64(PageSize.small.byteCount))
    report.encodings = [
      ("lz4", counts.lz4), ("zstd", counts.zstd), ("delta", counts.delta), ("same", same),
    ].compactMap { name, packed in
      packed.pageByteCount == 0
        ? nil
        : EncodingTally(
          name: name, pageByteCount: packed.pageByteCount, sentByteCount: packed.sentByteCount)
    }
    report.bytes.demanded = counts.urgentByteCount
    report.bytes.pushed = counts.bulkByteCount
  }

  private func tell(_ outcome: Outcome, _ report: MigrationReport) {
    let level: LogLevel = outcome.ending == .completed ? .notice : .error
    console.say(OperatorMessage(outcome, vmName: vmName), level: level)
    console.finish(report)
  }

  private static func downtime(_ result: SourceResult) -> Downtime? {
    let times = result.times
    guard let nanoseconds = times.downtimeNanoseconds else { return nil }
    let there = times.destinationPause
    // The destination waits for device state from `frozen` on: the source's save is part of that.
    let saveNanoseconds = part(.stateSave, times.discarded, times.saved)?.nanoseconds ?? 0
    // What passed between GO and RAN that was not the way of GO.
    let afterGo =
      (times.nanosecondsFromStartToRan ?? 0) + there.acceptNanoseconds + there.startNanoseconds
    return Downtime(
      nanoseconds: nanoseconds, uncertaintyNanoseconds: (result.roundTripNanoseconds ?? 0) / 2,
      parts: [
        part(.pause, times.freeze, times.paused, less: times.lastScanNanoseconds),
        times.seeding.map { _ in
          PhaseTime(.lastScan, nanoseconds: times.lastScanNanoseconds)
        },
        part(.stateSave, times.discarded, times.saved),
        PhaseTime(
          .transfer,
          nanoseconds: there.transferNanoseconds - min(there.transferNanoseconds, saveNanoseconds)),
        PhaseTime(.load, nanoseconds: there.loadNanoseconds),
        there.fillNanoseconds > 0
          ? PhaseTime(.fill, nanoseconds: there.fillNanoseconds) : nil,
        part(.handOffSyncs, times.prepared, times.handedOff, more: there.acceptNanoseconds),
        part(.go, times.handedOff, times.ran, less: afterGo),
        PhaseTime(.resume, nanoseconds: there.startNanoseconds),
      ].compactMap { $0 })
  }

  private static func phases(_ times: SourceTimes) -> [Stretch] {
    [
      Stretch("rounds while the VM ran here", times.seeding, times.freeze),
      Stretch("freeze to hand-off", times.freeze, times.handedOff),
      Stretch("hand-off to running at the destination", times.handedOff, times.ran),
      Stretch("pulling the rest", times.ran, times.complete),
    ].compactMap { $0 }
  }

  /// What the hand-over waited for here, step by step.
  private static func steps(_ times: SourceTimes) -> [Stretch] {
    let scanStart = times.paused.map {
      Instant(nanoseconds: $0.nanoseconds - min($0.nanoseconds, times.lastScanNanoseconds))
    }
    return [
      Stretch(DowntimePart.pause.rawValue, times.freeze, scanStart),
      Stretch(DowntimePart.lastScan.rawValue, times.seeding == nil ? nil : scanStart, times.paused),
      Stretch(DowntimePart.stateSave.rawValue, times.discarded, times.saved),
      Stretch(DowntimePart.handOffSyncs.rawValue, times.prepared, times.handedOff),
    ].compactMap { $0 }
  }

  private static func part(
    _ part: DowntimePart, _ start: Instant?, _ end: Instant?, less: UInt64 = 0,
    more: UInt64 = 0
  ) -> PhaseTime? {
    guard let start, let end else { return nil }
    let nanoseconds = end.nanoseconds(since: start) + more
    return PhaseTime(part, nanoseconds: nanoseconds > less ? nanoseconds - less : 0)
  }
}
