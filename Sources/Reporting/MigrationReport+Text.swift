internal import System

extension MigrationReport {
  /// The report for people: a verdict, then one line for each subject that there is something to
  /// say about.
  public func text() -> String {
    var lines = ["VM \(vm): \(outcome) in \(Amounts.duration(nanoseconds: totalNanoseconds))"]
    var identity = "\(mode), \(side) side"
    if let session { identity += ", session \(session)" }
    lines[0] += " (\(identity))"
    if let reason { lines.append(row("reason", reason)) }
    lines.append(row("source", sourceState))
    lines.append(row("destination", destinationState))
    if let downtime { lines.append(row("downtime", Self.text(downtime))) }
    if let rounds { lines.append(row("rounds", Self.text(rounds))) }
    if let guest { lines.append(row("guest", Self.text(guest))) }
    if let guestPauses { lines.append(row("paused", Self.text(guestPauses))) }
    if let faults { lines += Self.lines(faults) }
    lines.append(row("pages", Self.text(pages)))
    if let seedsInPlace {
      lines.append(row("seeds", seedsInPlace ? "in place" : "staged, then installed"))
    }
    lines.append(
      row(
        "bytes",
        "\(Amounts.bytes(bytes.demanded)) on demand, \(Amounts.bytes(bytes.pushed)) pushed, "
          + "\(Amounts.bytes(bytes.deviceState)) device state; "
          + Amounts.rate(bytesPerSecond: pageBytesPerSecond)))
    if let encodings, !encodings.isEmpty { lines.append(row("packed", Self.text(encodings))) }
    if !phases.isEmpty { lines.append(row("phases", Self.text(phases))) }
    return lines.joined(separator: "\n")
  }

  private static let labelWidth = 13

  private func row(_ label: String, _ text: String) -> String { Self.row(label, text) }

  private static func row(_ label: String, _ text: String) -> String {
    "  " + label + String(repeating: " ", count: max(1, labelWidth - label.count)) + text
  }

  private static func text(_ downtime: Downtime) -> String {
    let whole = Amounts.duration(nanoseconds: downtime.nanoseconds)
    let uncertainty = Amounts.duration(nanoseconds: downtime.uncertaintyNanoseconds)
    var text = "\(whole) ± \(uncertainty)"
    if !downtime.parts.isEmpty {
      let known = downtime.parts.reduce(0) { $0 + $1.nanoseconds }
      let rest = downtime.nanoseconds > known ? downtime.nanoseconds - known : 0
      text += ": " + Self.text(downtime.parts + [PhaseTime("other", nanoseconds: rest)])
    }
    return text
  }

  private static func text(_ phases: [PhaseTime]) -> String {
    phases.map { "\($0.name) \(Amounts.duration(nanoseconds: $0.nanoseconds))" }
      .joined(separator: " · ")
  }

  private static func text(_ encodings: [EncodingTally]) -> String {
    encodings.map { encoding in
      "\(Amounts.bytes(encoding.pageByteCount)) to \(Amounts.bytes(encoding.sentByteCount)) by "
        + encoding.name
    }.joined(separator: " · ")
  }

  private static func text(_ rounds: RoundsTally) -> String {
    var text = "\(Amounts.count(rounds.count)), writes told by \(rounds.tracking)"
    text += " in \(Amounts.duration(nanoseconds: rounds.longestLookNanoseconds)) at most"
    if rounds.throttlePercent > 0 {
      text += ", the guest slowed down by \(rounds.throttlePercent) %"
      if let means = rounds.throttleMeans { text += " (by \(means))" }
    }
    if let pause = rounds.lookPauseNanoseconds {
      text += ", paused for \(Amounts.duration(nanoseconds: pause)) to see them"
    }
    if let predicted = rounds.predictedDowntimeNanoseconds {
      text += "; what was left was to take \(Amounts.duration(nanoseconds: predicted))"
    }
    return text
  }

  private static func text(_ guest: GuestProgress) -> String {
    let wrong =
      guest.mismatches == 0
      ? "no wrong page" : "\(guest.mismatches) WRONG PAGES: report this as a bug"
    return "\(Amounts.count(guest.operationsBeforeFreeze)) operations before the freeze, "
      + "\(Amounts.count(guest.operationsAfterStart)) since; \(wrong)"
  }

  private static func text(_ pauses: GuestPauses) -> String {
    (pauses.count == 1 ? "once" : "\(Amounts.count(pauses.count)) times") + " for lost links, "
      + Amounts.duration(nanoseconds: pauses.totalNanoseconds)
      + (pauses.isPaused ? "; paused still, recover lets it run on" : "")
  }

  private static func text(_ pages: PageTally) -> String {
    var kinds: [(String, UInt64)] = [
      ("data", pages.data), ("zero", pages.zero), ("poisoned", pages.poisoned),
      ("removed", pages.removed), ("duplicate", pages.duplicate),
    ]
    if let seeded = pages.seeded { kinds.insert(("seeded", seeded), at: 0) }
    return "\(Amounts.count(pages.total)): "
      + kinds.map { "\($0.0) \(Amounts.count($0.1))" }.joined(separator: " · ")
  }

  private static func lines(_ faults: Faults) -> [String] {
    var text = "\(Amounts.count(faults.count)) (\(Amounts.count(faults.duplicateCount)) duplicate)"
    let quantiles = [
      ("p50", faults.p50Nanoseconds), ("p99", faults.p99Nanoseconds),
      ("p99.9", faults.p999Nanoseconds),
    ]
    for (name, nanoseconds) in quantiles {
      if let nanoseconds { text += " · \(name) \(Amounts.duration(nanoseconds: nanoseconds))" }
    }
    if faults.count > 0 {
      text += " · max \(Amounts.duration(nanoseconds: faults.maximumNanoseconds))"
    }
    let most = faults.histogram.map(\.count).max() ?? 0
    return [row("faults", text)]
      + faults.histogram.map { row("", Self.bar($0, most: most)) }
  }

  /// The longest bar of a histogram.
  private static let barWidth: UInt64 = 40

  /// "< 64 µs  ########  1 234"; every row with a count has at least one mark.
  private static func bar(_ line: LatencyRow, most: UInt64) -> String {
    let border = "< \(Amounts.count(line.belowMicroseconds)) µs"
    let length = line.count == 0 ? 0 : max(1, line.count * barWidth / most)
    let left = String(repeating: " ", count: max(0, 14 - border.count)) + border
    return left + "  " + String(repeating: "#", count: Int(length))
      + (length > 0 ? "  " : "") + Amounts.count(line.count)
  }
}
