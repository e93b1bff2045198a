/// Collects the runs and prints the medians with their ratios.
struct ResultTable {
  let contenders: [Contender]
  private let pushByteCount: Int
  private var runs: [Experiment: [Contender: [Measurement]]] = [:]

  init(contenders: [Contender], pushByteCount: Int) {
    self.contenders = contenders
    self.pushByteCount = pushByteCount
  }

  mutating func note(_ run: Measurement, _ contender: Contender, _ experiment: Experiment) {
    runs[experiment, default: [:]][contender, default: []].append(run)
  }

  /// One run in one line.
  func line(
    _ run: Measurement, _ contender: Contender, _ experiment: Experiment, round: Int
  ) -> String {
    let head = pad("\(experiment.rawValue) \(round + 1)", 9) + pad(contender.rawValue, 11)
    guard experiment == .bulk else {
      return head
        + "p50 \(microseconds(run.p50Nanoseconds)) p99 \(microseconds(run.p99Nanoseconds)) µs"
        + " n \(run.faultCount)"
    }
    return head + "\(decimal(gigabytesPerSecond(run), 2)) GB/s"
  }

  /// Who is measured, and against whom.
  private var subject: Contender { contenders.first ?? .reference }
  private var standard: Contender { contenders.last ?? .reference }

  /// The medians, one figure a line: subject, standard, ratio, aim.
  func summary() -> String {
    var lines = [
      "",
      pad("median over the rounds", 34) + pad(subject.rawValue, 12)
        + pad(standard.rawValue, 12) + pad("ratio", 8) + "aim",
    ]
    lines.append(
      row("p50 idle, µs", .idle, subject == .sealed ? "" : "≤ 1.3") {
        Double($0.p50Nanoseconds) / 1000
      })
    lines.append(row("p99 idle, µs", .idle, "") { Double($0.p99Nanoseconds) / 1000 })
    lines.append(row("p50 under push, µs", .push, "") { Double($0.p50Nanoseconds) / 1000 })
    lines.append(row("p99 under push, µs", .push, "") { Double($0.p99Nanoseconds) / 1000 })
    lines.append(row("bulk, GB/s", .bulk, subject == .sealed ? "" : "≥ 0.8", gigabytesPerSecond))
    lines.append(row("source CPU, s/GB", .bulk, "") { $0.source.processorSeconds / gigabytes })
    lines.append(
      row("destination CPU, s/GB", .bulk, "") { $0.destination.processorSeconds / gigabytes })
    let limit = "engine ≤ \(decimal(residentAimMebibytes, 1))"
    lines.append(row("source RSS anon + file, MiB", .bulk, limit) { $0.source.mebibytes })
    lines.append(
      row("destination RSS anon + file, MiB", .bulk, limit) { $0.destination.mebibytes })
    for contender in contenders {
      guard let idle = middle(.idle, contender, { Double($0.p99Nanoseconds) }),
        let pushed = middle(.push, contender, { Double($0.p99Nanoseconds) }), idle > 0
      else { continue }
      lines.append(
        pad("p99 push / p99 idle, \(contender.rawValue)", 34) + "\(decimal(pushed / idle, 2))"
          + (contender == .engine ? "  aim ≤ 3" : ""))
    }
    if subject == .sealed, let sealed = middle(.idle, .sealed, { Double($0.p50Nanoseconds) }),
      let plain = middle(.idle, .engine, { Double($0.p50Nanoseconds) })
    {
      let sign = sealed < plain ? "-" : ""
      lines.append(
        pad("TLS adds to p50 idle, µs", 34) + sign + decimal(abs(sealed - plain) / 1000, 1)
          + "  aim ≤ 12")
    }
    return lines.joined(separator: "\n")
  }

  private func row(
    _ name: String, _ experiment: Experiment, _ aim: String, _ figure: (Measurement) -> Double
  ) -> String {
    let found = middle(experiment, subject, figure)
    let expected = middle(experiment, standard, figure)
    var ratio = "-"
    if let found, let expected, expected > 0 { ratio = decimal(found / expected, 2) }
    return pad(name, 34) + pad(found.map { decimal($0, 2) } ?? "-", 12)
      + pad(expected.map { decimal($0, 2) } ?? "-", 12) + pad(ratio, 8) + aim
  }

  private func middle(
    _ experiment: Experiment, _ contender: Contender, _ figure: (Measurement) -> Double
  ) -> Double? {
    median((runs[experiment]?[contender] ?? []).map(figure))
  }

  private var gigabytes: Double { Double(pushByteCount) / 1e9 }

  private func gigabytesPerSecond(_ run: Measurement) -> Double { gigabytes / run.seconds }

  /// 32 MiB and 0.05 % of the guest's memory.
  private var residentAimMebibytes: Double { 32 + Double(pushByteCount) * 0.0005 / 1_048_576 }
}

extension Footprint {
  var mebibytes: Double { Double(peakResidentKibibytes) / 1024 }
}

private func microseconds(_ nanoseconds: UInt64) -> String {
  decimal(Double(nanoseconds) / 1000, 1)
}

/// `value` with `places` digits behind the point, without Foundation.
private func decimal(_ value: Double, _ places: Int) -> String {
  let scale = places == 1 ? 10 : 100
  let scaled = Int((value * Double(scale)).rounded())
  let fraction = String(scaled % scale)
  let zeros = String(repeating: "0", count: places - fraction.count)
  return "\(scaled / scale).\(zeros)\(fraction)"
}

private func pad(_ text: String, _ width: Int) -> String {
  text + String(repeating: " ", count: max(1, width - text.count))
}
