import Migration
import System
import Testing
import Wire

@testable import Reporting

@Suite("Reports")
struct ReportTests {
  static func report() -> MigrationReport {
    let recorder = LatencyRecorder()
    for nanoseconds in [30_000, 40_000, 41_000, 100_000] as [UInt64] {
      recorder.record(nanoseconds: nanoseconds)
    }
    var report = MigrationReport(
      vm: "web1", session: "01234567-89ab-cdef-fedc-ba9876543210", side: "source",
      outcome: Outcome(ending: .completed, reason: nil, source: .disabled, destination: .runs),
      mode: "post-copy", startedAt: "2026-01-31T12:00:00.000Z", totalNanoseconds: 4_210_000_000)
    report.downtime = Downtime(
      nanoseconds: 12_400_000, uncertaintyNanoseconds: 50_000,
      parts: [
        PhaseTime(.pause, nanoseconds: 300_000), PhaseTime(.handOffSyncs, nanoseconds: 2_100_000),
      ])
    report.faults = Faults(recorder.histogram(), duplicateCount: 2)
    report.pages.total = 131_072
    report.pages.data = 100_000
    report.pages.zero = 31_072
    report.bytes.demanded = 16_384
    report.bytes.pushed = 409_583_616
    report.guest = GuestProgress(
      operationsBeforeFreeze: 12_345, operationsAfterStart: 1, mismatches: 0)
    report.phases = [PhaseTime("frozen", nanoseconds: 12_000_000)]
    return report
  }

  @Test("The JSON of version 1 does not change")
  func golden() {
    #expect(
      Self.report().json() == #"{"bytes":{"demanded":16384,"deviceState":0,"pushed":409583616},"#
        + #""destinationState":"the VM runs","downtime":{"nanoseconds":12400000,"parts":"#
        + #"[{"name":"pause","nanoseconds":300000},"#
        + #"{"name":"hand-off fsyncs","nanoseconds":2100000}],"uncertaintyNanoseconds":50000},"#
        + #""exitCode":0,"faults":{"count":4,"duplicateCount":2,"histogram":"#
        + #"[{"belowMicroseconds":32,"count":1,"fromMicroseconds":16},"#
        + #"{"belowMicroseconds":64,"count":2,"fromMicroseconds":32},"#
        + #"{"belowMicroseconds":128,"count":1,"fromMicroseconds":64}],"#
        + #""maximumNanoseconds":100000,"p50Nanoseconds":41000,"p999Nanoseconds":100000,"#
        + #""p99Nanoseconds":100000},"guest":{"mismatches":0,"operationsAfterStart":1,"#
        + #""operationsBeforeFreeze":12345},"mode":"post-copy","outcome":"completed","pages":"#
        + #"{"data":100000,"duplicate":0,"poisoned":0,"removed":0,"total":131072,"zero":31072},"#
        + #""phases":[{"name":"frozen","nanoseconds":12000000}],"#
        + #""session":"01234567-89ab-cdef-fedc-ba9876543210","side":"source","#
        + #""sourceState":"the VM can run no more, its memory is kept until completion","#
        + #""startedAt":"2026-01-31T12:00:00.000Z","totalNanoseconds":4210000000,"version":1,"#
        + #""vm":"web1"}"#)
  }

  @Test("The text for people")
  func text() {
    #expect(
      Self.report().text() == """
        VM web1: completed in 4.21 s (post-copy, source side, session \
        01234567-89ab-cdef-fedc-ba9876543210)
          source       the VM can run no more, its memory is kept until completion
          destination  the VM runs
          downtime     12.4 ms ± 50.0 µs: pause 300 µs · hand-off fsyncs 2.10 ms · other 10.0 ms
          guest        12 345 operations before the freeze, 1 since; no wrong page
          faults       4 (2 duplicate) · p50 41.0 µs · p99 100 µs · p99.9 100 µs · max 100 µs
                              < 32 µs  ####################  1
                              < 64 µs  ########################################  2
                             < 128 µs  ####################  1
          pages        131 072: data 100 000 · zero 31 072 · poisoned 0 · removed 0 · duplicate 0
          bytes        16.0 KiB on demand, 391 MiB pushed, 0 B device state; 92.8 MiB/s
          phases       frozen 12.0 ms
        """)
  }

  @Test("Amounts have three digits and a unit that fits")
  func amounts() {
    let durations: [(UInt64, String)] = [
      (0, "0 ns"), (999, "999 ns"), (1000, "1.00 µs"), (9_994, "9.99 µs"), (9_996, "10.0 µs"),
      (99_960, "100 µs"), (999_499, "999 µs"), (999_500, "1.00 ms"), (1_500_000_000, "1.50 s"),
      (99_949_000_000, "99.9 s"), (99_950_000_000, "1 min 40 s"), (3_600_000_000_000, "60 min 0 s"),
    ]
    for (nanoseconds, text) in durations {
      #expect(Amounts.duration(nanoseconds: nanoseconds) == text)
    }
    let sizes: [(UInt64, String)] = [
      (0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1024, "1.00 KiB"), (1_048_575, "1.00 MiB"),
      (402 << 20, "402 MiB"), (.max, "16.0 EiB"),
    ]
    for (count, text) in sizes { #expect(Amounts.bytes(count) == text) }
    #expect(Amounts.count(0) == "0" && Amounts.count(1000) == "1 000")
    #expect(Amounts.count(123_456_789) == "123 456 789")
    #expect(Amounts.share(1, of: 100_000) == "0.1 %" && Amounts.share(0, of: 5) == "0 %")
    #expect(Amounts.share(99_999, of: 100_000) == "99.9 %" && Amounts.share(5, of: 5) == "100 %")
  }

  @Test(
    "Every ending gives one message with both sides and the next step", arguments: Ending.allCases)
  func messages(ending: Ending) {
    let outcome = Outcome(
      ending: ending, reason: Refusal(.vmm, "the VMM died"), source: .runs, destination: .killed)
    let text = "\(OperatorMessage(outcome, vmName: "web1"))"
    #expect(text.hasPrefix("VM web1: \(OperatorMessage.verdict(of: ending)): the VMM died\n"))
    #expect(text.contains("\n  source:      the VM runs\n"))
    #expect(text.contains("\n  destination: the VM's process is gone\n"))
    #expect(text.split(separator: "\n").last?.hasPrefix("  next:        ") == true)
  }

  @Test("A guest that was paused for lost links is told, and one that stands still as such")
  func guestPauses() {
    let outcome = Outcome(ending: .parked, reason: nil, source: .stopped, destination: .stopped)
    var report = MigrationReport(
      vm: "web1", session: nil, side: "destination", outcome: outcome, mode: "post-copy",
      startedAt: "T", totalNanoseconds: 1)
    #expect(!report.text().contains("paused") && !report.json().contains("guestPauses"))
    report.guestPauses = GuestPauses(count: 2, totalNanoseconds: 7_000_000_000, isPaused: false)
    #expect(report.text().contains("\n  paused       2 times for lost links, 7.00 s\n"))
    #expect(
      report.json().contains(
        #""guestPauses":{"count":2,"isPaused":false,"totalNanoseconds":7000000000}"#))
    report.guestPauses = GuestPauses(count: 1, totalNanoseconds: 7_000_000_000, isPaused: true)
    #expect(
      report.text().contains(
        "once for lost links, 7.00 s; paused still, recover lets it run on\n"))
  }

  @Test("A parked VM is never to be started by hand; an aborted one that stands is to be resumed")
  func nextSteps() {
    let parked = Outcome(ending: .parked, reason: nil, source: .disabled, destination: .mayRun)
    #expect(OperatorMessage(parked, vmName: "v").nextStep.contains("neither host by hand"))
    let stopped = Outcome(ending: .aborted, reason: nil, source: .stopped, destination: .untouched)
    #expect(OperatorMessage(stopped, vmName: "v").nextStep.hasPrefix("resume the VM at the source"))
    let unrun = Outcome(ending: .parked, reason: nil, source: .stopped, destination: .ruledOut)
    #expect(OperatorMessage(unrun, vmName: "v").nextStep.hasPrefix("resume the VM at the source"))
    let copy = Outcome(ending: .parked, reason: nil, source: .absent, destination: .ruledOut)
    #expect(
      OperatorMessage(copy, vmName: "v").nextStep.contains(
        "page-server fence --vm v --i-am-sure-the-destination-is-dead"))
  }
}
