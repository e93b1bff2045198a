/// What one outage took, in milliseconds.
struct Outage {
  /// From the drop to `link-lost`.
  var lostAtSource: Double
  var lostAtDestination: Double
  /// From the link's return to `link-restored`.
  var restoredAtSource: Double
  var restoredAtDestination: Double
  /// From the link's return to the guest's next operation.
  var nextPage: Double
}

/// All outages of a run.
struct Results {
  private var outages: [Outage] = []

  mutating func add(_ outage: Outage) { outages.append(outage) }

  /// The later of the two sides.
  var medianLost: Double {
    Self.median(outages.map { max($0.lostAtSource, $0.lostAtDestination) })
  }

  var medianRecovery: Double { Self.median(outages.map(\.nextPage)) }

  var table: String {
    let rows: [(String, (Outage) -> Double)] = [
      ("drop to link-lost, source", \.lostAtSource),
      ("drop to link-lost, destination", \.lostAtDestination),
      ("drop to link-lost, the later one", { max($0.lostAtSource, $0.lostAtDestination) }),
      ("return to link-restored, source", \.restoredAtSource),
      ("return to link-restored, destination", \.restoredAtDestination),
      ("return to the guest's next page", \.nextPage),
    ]
    let lines = rows.map { name, value in
      let sorted = outages.map(value).sorted()
      return Self.row(
        name,
        [
          sorted.first ?? 0, Self.median(sorted), Self.quantile(sorted, 0.9), sorted.last ?? 0,
        ].map(Self.text))
    }
    return ([Self.row("", ["least", "median", "p90", "most"])] + lines).joined(separator: "\n")
  }

  private static func row(_ name: String, _ cells: [String]) -> String {
    let padding = String(repeating: " ", count: max(0, 38 - name.count))
    return name + padding
      + cells.map { String(repeating: " ", count: max(0, 9 - $0.count)) + $0 }.joined()
  }

  private static func text(_ value: Double) -> String {
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10)"
  }

  private static func median(_ values: [Double]) -> Double { quantile(values.sorted(), 0.5) }

  private static func quantile(_ sorted: [Double], _ share: Double) -> Double {
    sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
  }
}
