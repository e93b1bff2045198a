/// One line of the table: medians over the rounds.
struct Row {
  static let header = """
    | link | guest writes | mode | total | downtime | bytes ÷ memory | ÷ non-zero | remote faults \
    | stall p50 | p99 | longest | progress while pulling |
    |---|---|---|---|---|---|---|---|---|---|---|---|
    """

  let line: String

  init(link: String, percent: Int, mode: String, runs: [Run], _ rounds: Int) {
    let cells = [
      link, percent == 0 ? "idle" : "\(percent) %", mode,
      Self.spread(runs.map { Double($0.totalNanoseconds) / 1e9 }, " s"),
      Self.spread(runs.map { Double($0.downtimeNanoseconds) / 1e6 }, " ms"),
      Self.text(Self.median(runs.map(\.bytesPerMemory))),
      Self.thousandths(Self.median(runs.map(\.bytesPerNonZero))),
      "\(Int(Self.median(runs.map { Double($0.faultCount) })))",
      Self.microseconds(runs.compactMap(\.stallP50Nanoseconds)),
      Self.microseconds(runs.compactMap(\.stallP99Nanoseconds)),
      Self.microseconds(runs.map(\.stallMaximumNanoseconds)),
      Self.percent(runs.compactMap(\.progress)),
    ]
    line = "| " + cells.joined(separator: " | ") + " |"
  }

  /// The median, and from the least to the most.
  private static func spread(_ values: [Double], _ unit: String) -> String {
    let sorted = values.sorted()
    guard let least = sorted.first, let most = sorted.last else { return "–" }
    let middle = text(median(values)) + unit
    return sorted.count == 1 ? middle : "\(middle) (\(text(least))–\(text(most)))"
  }

  private static func microseconds(_ values: [UInt64]) -> String {
    guard values.contains(where: { $0 > 0 }) else { return "–" }
    return text(median(values.map { Double($0) / 1000 })) + " µs"
  }

  private static func percent(_ values: [Double]) -> String {
    values.isEmpty ? "–" : "\(Int((median(values) * 100).rounded())) %"
  }

  private static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
  }

  /// What is close to 1 needs a digit more.
  private static func thousandths(_ value: Double) -> String {
    let scaled = Int((value * 1000).rounded())
    let rest = "\(scaled % 1000)"
    return "\(scaled / 1000)." + String(repeating: "0", count: 3 - rest.count) + rest
  }

  /// Three digits that count.
  private static func text(_ value: Double) -> String {
    if value >= 100 { return "\(Int(value.rounded()))" }
    let scale = value >= 10 ? 10.0 : 100.0
    let scaled = Int((value * scale).rounded())
    let rest = scaled % Int(scale)
    let digits = scale == 10 ? "\(rest)" : rest < 10 ? "0\(rest)" : "\(rest)"
    return "\(scaled / Int(scale)).\(digits)"
  }
}
