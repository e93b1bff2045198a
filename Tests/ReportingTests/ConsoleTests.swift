import Migration
import Pages
import System
import Testing

@testable import Reporting

@Suite("Console")
struct ConsoleTests {
  private let output = Lock<[String]>([])

  private func console(
    _ progress: ConsoleStyle.Progress, level: LogLevel = .notice, color: Bool = false
  ) -> Console {
    let output = output
    return Console(
      vmName: "web1",
      style: ConsoleStyle(progress: progress, minimumLevel: level, hasColor: color),
      timestamp: { "T" },
      sink: { stream, text in
        output.withLock { $0.append((stream == .output ? "1" : "2") + text) }
      })
  }

  private var lines: [String] { output.withLock { $0 } }

  private func at(_ milliseconds: UInt64) -> Instant {
    Instant(nanoseconds: milliseconds * 1_000_000)
  }

  private func sample(_ phase: String = "running", vm: String = "web1") -> ProgressSample {
    ProgressSample(
      vm: vm, phase: phase, elapsedNanoseconds: 1_500_000_000, donePageCount: 375,
      totalPageCount: 1000, byteCount: 1_536_000, bytesPerSecond: 104_857_600, faultCount: 1234,
      p50Nanoseconds: 41_000, p99Nanoseconds: 310_000)
  }

  @Test("A progress line fits its width, at any width, and drops what matters least first")
  func widths() {
    let full =
      "VM web1: running 37.5 % · 1.46 MiB · 100 MiB/s · 1 234 faults (p50 41.0 µs, p99 310 "
    let whole = full + "µs) · 1.50 s"
    #expect(ProgressLine.text(sample(), width: 200) == whole)
    #expect(ProgressLine.text(sample(), width: whole.count) == whole)
    #expect(
      ProgressLine.text(sample(), width: whole.count - 1)
        == "VM web1: running 37.5 % · 100 MiB/s · 1 234 faults (p50 41.0 µs, p99 310 µs) · 1.50 s")
    #expect(ProgressLine.text(sample(), width: 40) == "VM web1: running 37.5 % · 100 MiB/s")
    #expect(ProgressLine.text(sample(), width: 25) == "VM web1: running 37.5 %")
    #expect(ProgressLine.text(sample(), width: 20) == "web…: running 37.5 %".description)
    for width in 0...120 {
      for vm in ["w", "web1", String(repeating: "ü", count: 200)] {
        let line = ProgressLine.text(sample(vm: vm), width: width)
        #expect(line.count <= width, "width \(width): \(line)")
        #expect(width < 10 || line.contains("running") || width < 14)
      }
    }
  }

  @Test("On a terminal one line is written over, and messages come above it")
  func live() {
    let console = console(.live(columnCount: 40))
    console.show(sample(), now: at(0))
    console.show(sample(), now: at(99))
    console.show(sample(), now: at(100))
    console.show(sample("draining"), now: at(101))
    console.log(.warning, "slow")
    console.log(.debug, "not shown")
    console.finish(ReportTests.report())
    let line = "2\rVM web1: running 37.5 % · 100 MiB/s\u{1B}[K"
    #expect(lines.prefix(2) == [line, line])
    #expect(lines[2] == "2\rVM web1: draining 37.5 % · 100 MiB/s\u{1B}[K")
    #expect(lines[3...4] == ["2\r\u{1B}[K", "2T warning VM web1: slow\n"])
    #expect(lines.count == 6)
    #expect(lines[5] == "1" + ReportTests.report().text() + "\n")
  }

  @Test("Without a terminal a whole line now and then, without control characters")
  func plain() {
    let console = console(.plain)
    for milliseconds in stride(from: 0 as UInt64, through: 10_000, by: 50) {
      console.show(sample(), now: at(milliseconds))
    }
    console.show(sample("draining"), now: at(10_001))
    console.flush()
    #expect(lines.count == 4)
    #expect(lines.allSatisfy { $0.hasSuffix("\n") && !$0.contains("\r") && !$0.contains("\u{1B}") })
  }

  @Test("Quiet shows errors alone")
  func quiet() {
    let console = console(.none, level: .error)
    console.show(sample(), now: at(0))
    console.log(.warning, "slow")
    console.finish(ReportTests.report())
    #expect(lines.isEmpty)
    console.say(
      OperatorMessage(
        Outcome(ending: .aborted, reason: nil, source: .runs, destination: .killed), vmName: "web1")
    )
    #expect(lines.count == 1 && lines[0].hasPrefix("2error: VM web1: aborted\n"))
  }

  @Test("As JSON everything is one object a line on standard output, with a version")
  func json() {
    let console = console(.json)
    console.log(.warning, "a \"quoted\"\nline")
    console.show(sample(), now: at(0))
    console.show(sample(), now: at(999))
    console.finish(ReportTests.report())
    #expect(lines.count == 3)
    #expect(
      lines[0] == #"1{"event":"message","level":"warning","text":"a \"quoted\"\nline","#
        + #""time":"T","version":1,"vm":"web1"}"# + "\n")
    #expect(
      lines[1] == #"1{"event":"progress","progress":{"byteCount":1536000,"#
        + #""bytesPerSecond":104857600,"donePageCount":375,"elapsedNanoseconds":1500000000,"#
        + #""faultCount":1234,"p50Nanoseconds":41000,"p99Nanoseconds":310000,"#
        + #""phase":"running","totalPageCount":1000,"vm":"web1"},"time":"T","version":1,"#
        + #""vm":"web1"}"# + "\n")
    #expect(lines[2].contains(#""event":"finished","report":{"bytes":"#))
    #expect(lines.allSatisfy { $0.split(separator: "\n").count == 1 })
  }

  @Test("The style follows the options, the terminal and NO_COLOR")
  func styles() {
    let usual = { (quiet: Bool, json: Bool, terminal: Bool, noColor: String?) in
      ConsoleStyle.usual(
        isQuiet: quiet, isVerbose: false, isJSON: json, isTerminal: terminal, columnCount: 100,
        noColor: noColor)
    }
    #expect(usual(false, false, true, nil).progress == .live(columnCount: 100))
    #expect(usual(false, false, true, nil).hasColor)
    #expect(usual(false, false, true, "").hasColor)
    #expect(!usual(false, false, true, "1").hasColor)
    #expect(usual(false, false, false, nil).progress == .plain)
    #expect(!usual(false, false, false, nil).hasColor)
    #expect(usual(true, false, true, nil).progress == .none)
    #expect(usual(true, false, true, nil).minimumLevel == .error)
    #expect(usual(true, true, true, nil).progress == .json)
    let color = console(.plain, color: true)
    color.log(.error, "x")
    #expect(lines == ["2T \u{1B}[31merror\u{1B}[0m VM web1: x\n"])
  }
}
