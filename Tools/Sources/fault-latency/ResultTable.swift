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
    let head = pad("\(experiment.rawValue) \(round + 1)", 9) + pad(contender.rawValue, 14)
    guard experiment == .bulk else {
      return head
        + "p50 \(microseconds(run.p50Nanoseconds)) p99 \(microseconds(run.p99Nanoseconds)) µs"
        + " n \(run.faultCount)"
    }
    return head + "\(decimal(gigabytesPerSecond(run), 2)) GB/s"
  }

  // MARK: Medians

  /// The engine against the reference that speaks as it does: the pairs with a ratio.
  private var pairs: [(subject: Contender, standard: Contender)] {
    [(.engine, .reference), (.sealed, .sealedReference)].filter {
      contenders.contains($0.0) && contenders.contains($0.1)
    }
  }

  /// The medians, one figure a line: each contender, then the ratio of each pair, then the aim.
  func summary() -> String {
    let heads = contenders.map { pad($0.rawValue, 14) } + pairs.map { pad(Self.name(of: $0.0), 11) }
    var lines = ["", pad("median over the rounds", 34) + heads.joined() + "aim"]
    let isSealed = contenders.contains(.sealed)
    lines.append(
      row("p50 idle, µs", .idle, isSealed ? "≤ 1.3 without, ≤ 1.15 with TLS" : "≤ 1.3", p50))
    lines.append(row("p99 idle, µs", .idle, "", p99))
    lines.append(row("p50 under push, µs", .push, "", p50))
    lines.append(row("p99 under push, µs", .push, "", p99))
    lines.append(row("bulk, GB/s", .bulk, "≥ 0.8 without TLS", gigabytesPerSecond))
    lines.append(row("source CPU, s/GB", .bulk, "") { $0.source.processorSeconds / gigabytes })
    lines.append(
      row("destination CPU, s/GB", .bulk, "") { $0.destination.processorSeconds / gigabytes })
    let limit = "engine ≤ \(decimal(residentAimMebibytes, 1))"
    lines.append(row("source RSS anon + file, MiB", .bulk, limit) { $0.source.mebibytes })
    lines.append(
      row("destination RSS anon + file, MiB", .bulk, limit) { $0.destination.mebibytes })
    for contender in contenders {
      guard let idle = middle(.idle, contender, p99), let pushed = middle(.push, contender, p99),
        idle > 0
      else { continue }
      lines.append(
        pad("p99 push / p99 idle, \(contender.rawValue)", 34) + decimal(pushed / idle, 2)
          + (contender == .engine ? "  aim ≤ 3" : ""))
    }
    lines += spread("p50 idle, µs", .idle, p50)
    lines += spread("bulk, GB/s", .bulk, gigabytesPerSecond)
    lines += priceOfTLS()
    return lines.joined(separator: "\n")
  }

  private static func name(of subject: Contender) -> String {
    subject == .sealed ? "ratio, TLS" : "ratio"
  }

  private func row(
    _ name: String, _ experiment: Experiment, _ aim: String, _ figure: (Measurement) -> Double
  ) -> String {
    let found = contenders.map { middle(experiment, $0, figure) }
    let ratios = pairs.map { pair -> String in
      guard let subject = middle(experiment, pair.subject, figure),
        let standard = middle(experiment, pair.standard, figure), standard > 0
      else { return "-" }
      return decimal(subject / standard, 2)
    }
    return pad(name, 34) + found.map { pad($0.map { decimal($0, 2) } ?? "-", 14) }.joined()
      + ratios.map { pad($0, 11) }.joined() + aim
  }

  /// The lowest and the highest round of each contender.
  private func spread(
    _ name: String, _ experiment: Experiment, _ figure: (Measurement) -> Double
  ) -> [String] {
    contenders.compactMap { contender in
      let values = (runs[experiment]?[contender] ?? []).map(figure)
      guard let low = values.min(), let high = values.max() else { return nil }
      return pad("\(name), \(contender.rawValue)", 34)
        + "rounds from \(decimal(low, 2)) to \(decimal(high, 2))"
    }
  }

  /// What TLS adds, to the engine and to the reference.
  private func priceOfTLS() -> [String] {
    [(Contender.sealed, Contender.engine), (.sealedReference, .reference)].compactMap {
      sealed, plain in
      guard let with = middle(.idle, sealed, p50), let without = middle(.idle, plain, p50) else {
        return nil
      }
      return pad("TLS adds to p50 idle, µs, \(plain.rawValue)", 38)
        + (with < without ? "-" : "") + decimal(abs(with - without), 1)
        + (plain == .engine ? "  aim ≤ 12" : "")
    }
  }

  private func middle(
    _ experiment: Experiment, _ contender: Contender, _ figure: (Measurement) -> Double
  ) -> Double? {
    median((runs[experiment]?[contender] ?? []).map(figure))
  }

  // MARK: Figures

  private func p50(_ run: Measurement) -> Double { Double(run.p50Nanoseconds) / 1000 }

  private func p99(_ run: Measurement) -> Double { Double(run.p99Nanoseconds) / 1000 }

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
