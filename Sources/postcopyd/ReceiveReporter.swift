import FaultHandler
import Migration
import Pages
import Reporting
import Session
import System
import VMM
import Wire

/// Puts what happens at the destination into words.
final class ReceiveReporter {
  private let vmName: String
  private let console: Console
  /// Where the course of the session is drawn.
  var trace = MigrationTrace(nil)
  private let startedAt = WallClock.timestamp()
  private var rate = RateMeter()
  private var timeLeft = TimeLeft()
  /// Until the last page, as it went lately; nil while that cannot be told.
  private(set) var nanosecondsLeft: UInt64?

  init(vmName: String, console: Console) {
    self.vmName = vmName
    self.console = console
  }

  func note(_ note: DestinationNote) {
    switch note {
    case .awaitingAttach(let path): console.log(.notice, "waiting for the VMM at \(path)")
    case .attached(let pid, let regionCount, let pageCount):
      console.log(
        .notice, "the VMM (pid \(pid)) has attached: \(regionCount) regions, \(pageCount) pages")
    case .seedsPlaced(let placement):
      console.log(
        .notice,
        placement.stagingReason.map { "seeds are staged in memory of our own: \($0)" }
          ?? "seeds go into the VM's memory in place")
    case .dialling(let endpoint, let reason):
      console.log(.notice, "the source does not answer at \(endpoint) yet (\(reason)); trying on")
    case .joined(let endpoint): console.log(.notice, "connected to the source at \(endpoint)")
    case .recovered(let state):
      console.log(.notice, "an earlier process's session is taken up: \(state)")
      trace.state("\(state)")
    case .lost(let reason):
      console.tellLost(reason.reason)
      trace.linkLost(reason.reason)
    case .restored(let endpoint, let outage):
      console.tellRestored(address: "\(endpoint)", outageNanoseconds: outage)
      trace.linkRestored()
    case .guestPaused(let isComplete):
      console.tellGuestPaused(reason: "the link is lost", isComplete: isComplete)
      trace.guestPaused()
    case .guestResumed(let reason, let paused):
      console.tellGuestResumed(reason: reason.rawValue, pausedNanoseconds: paused)
      trace.guestResumed()
    case .state(let state):
      console.log(.debug, "state: \(state)")
      trace.state("\(state)")
    case .warning(let text): console.log(.warning, text)
    case .stopRefused(let reason): console.log(.warning, reason.reason)
    case .signalIgnored(let signal): console.log(.debug, "\(signal.name) ends nothing")
    case .progress(let progress): show(progress)
    }
  }

  private func show(_ progress: DestinationProgressReport) {
    guard let statistics = progress.statistics, progress.totalPageCount > 0 else { return }
    let latency = statistics.demandLatency
    nanosecondsLeft = timeLeft.nanoseconds(
      donePageCount: statistics.settledPageCount, totalPageCount: progress.totalPageCount,
      elapsedNanoseconds: progress.elapsedNanoseconds)
    let sample = ProgressSample(
      vm: vmName, phase: "\(progress.state)", elapsedNanoseconds: progress.elapsedNanoseconds,
      donePageCount: statistics.settledPageCount, totalPageCount: progress.totalPageCount,
      byteCount: statistics.installedByteCount,
      bytesPerSecond: rate.bytesPerSecond(
        byteCount: statistics.installedByteCount,
        elapsedNanoseconds: progress.elapsedNanoseconds), nanosecondsLeft: nanosecondsLeft,
      faultCount: statistics.faultCount, p50Nanoseconds: latency.nanoseconds(atQuantile: 0.5),
      p99Nanoseconds: latency.nanoseconds(atQuantile: 0.99))
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
    endTrace(outcome)
    tell(
      outcome,
      MigrationReport(
        vm: vmName, session: nil, side: "destination", outcome: outcome, mode: "",
        startedAt: startedAt, totalNanoseconds: 0))
    return outcome.ending.exitCode
  }

  /// Says how it ended.
  func finish(_ result: DestinationResult) {
    var report = MigrationReport(
      vm: vmName, session: result.session?.text, side: "destination", outcome: result.outcome,
      mode: result.mode?.name ?? "", startedAt: startedAt,
      totalNanoseconds: result.totalNanoseconds)
    report.pages.total = result.totalPageCount
    report.seedsInPlace = result.seedPlacement?.isInPlace
    if let statistics = result.statistics { add(statistics, to: &report) }
    report.bytes.deviceState = UInt64(result.deviceStateByteCount)
    report.guest = Self.guest(result)
    report.guestPauses = result.guestPause.map {
      GuestPauses(
        count: $0.count, totalNanoseconds: $0.totalNanoseconds, isPaused: $0.isPaused)
    }
    let phases = Self.phases(result.times)
    report.phases = phases.map(\.phaseTime)
    endTrace(result.outcome, phases)
    tell(result.outcome, report)
  }

  private func endTrace(_ outcome: Outcome, _ stretches: [Stretch] = []) {
    if let problem = trace.finish(outcome, stretches) { console.log(.warning, problem) }
  }

  private func add(_ statistics: DataPlaneStatistics, to report: inout MigrationReport) {
    report.faults = Faults(
      statistics.demandLatency, duplicateCount: statistics.repeatedFaultCount)
    report.pages.data =
      statistics.demandedPageCount + statistics.pushedPageCount
      + statistics.stageInstalledPageCount + statistics.inPlacePageCount
    if statistics.seededPageCount > 0 { report.pages.seeded = statistics.seededPageCount }
    report.pages.zero = statistics.zeroReportedPageCount
    report.pages.poisoned = statistics.poisonedPageCount
    report.pages.removed = statistics.removedPageCount
    report.pages.duplicate = statistics.droppedPageCount
    report.bytes.demanded = statistics.demandedByteCount
    report.bytes.pushed = statistics.pushedByteCount
  }

  private func tell(_ outcome: Outcome, _ report: MigrationReport) {
    let level: LogLevel = outcome.ending == .completed ? .notice : .error
    console.say(OperatorMessage(outcome, vmName: vmName), level: level)
    console.finish(report)
  }

  private static func guest(_ result: DestinationResult) -> GuestProgress? {
    guard let start = result.guestAtStart?.operationCount,
      let end = result.guestAtEnd?.operationCount
    else { return nil }
    return GuestProgress(
      operationsBeforeFreeze: start, operationsAfterStart: end > start ? end - start : 0,
      mismatches: UInt64(result.guestAtEnd?.mismatchCount ?? 0))
  }

  private static func phases(_ times: DestinationTimes) -> [Stretch] {
    [
      Stretch("device state on its way", times.frozen, times.deviceState),
      Stretch("device state loaded", times.deviceState, times.loaded),
      // The same moment where the VM waits for no page.
      Stretch(
        "what was to be there before the VM runs",
        times.loaded == times.prepared ? nil : times.loaded, times.prepared),
      Stretch("GO to GO_ACCEPTED on disk", times.go, times.goAccepted),
      Stretch("GO_ACCEPTED to running", times.goAccepted, times.running),
      Stretch("running to all resident", times.running, times.allResident),
    ].compactMap { $0 }
  }
}
