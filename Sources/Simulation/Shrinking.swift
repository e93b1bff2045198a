/// A failing seed with as little trouble as still makes it fail.
public struct ShrunkenSeed: Sendable {
  /// What has to be changed about the seed's own plan.
  public let changes: PlanChanges
  /// The report of the run with those changes, without its trace.
  public let report: SimulationReport
  /// How many runs it took.
  public let runCount: Int
}

extension Simulation {
  /// Enough for a handful of rounds over all knobs: shrinking ends in any case.
  static let maximumShrinkRunCount = 400

  /// Takes away one kind of trouble after the other, then makes the counts and sizes smaller, as
  /// long as the same property breaks. nil when the seed breaks nothing.
  ///
  /// Greedy, in the order of the knobs and without any chance, so the same seed always shrinks to
  /// the same run.
  public static func shrink(
    seed: UInt64, mutation: Mutation? = nil, changes: PlanChanges = PlanChanges()
  ) -> ShrunkenSeed? {
    let first = run(seed: seed, mutation: mutation, changes: changes)
    guard let violation = first.violation else { return nil }
    var search = Search(
      seed: seed, mutation: mutation, property: violation.property, changes: changes,
      report: first)
    search.removeKinds()
    search.shrinkSizes()
    return ShrunkenSeed(changes: search.changes, report: search.report, runCount: search.runCount)
  }

  private struct Search {
    let seed: UInt64
    let mutation: Mutation?
    let property: String
    var changes: PlanChanges
    var report: SimulationReport
    var runCount = 1

    /// Whether it still fails with that number; then the number is kept.
    private mutating func keeps(_ knob: PlanKnob, _ value: Int) -> Bool {
      guard runCount < maximumShrinkRunCount else { return false }
      var candidate = changes
      candidate[knob] = value
      runCount += 1
      let result = run(seed: seed, mutation: mutation, changes: candidate)
      guard result.violation?.property == property else { return false }
      changes = candidate
      report = result
      return true
    }

    private func value(of knob: PlanKnob) -> Int {
      var random = SeededRandom(seed: seed)
      return SimulationPlan(&random, changes: changes)[knob]
    }

    /// Whole kinds, until a round finds none to spare: one may be needed only beside another.
    mutating func removeKinds() {
      var isShrinking = true
      while isShrinking {
        isShrinking = false
        for knob in PlanKnob.allCases.reversed() {
          guard let simplest = knob.simplest, value(of: knob) != simplest else { continue }
          if keeps(knob, simplest) { isShrinking = true }
        }
      }
    }

    /// What could not be taken away whole: halfway to the simplest as long as that fails, too.
    mutating func shrinkSizes() {
      for knob in PlanKnob.allCases {
        guard let simplest = knob.simplest else { continue }
        var isShrinking = true
        while isShrinking {
          let current = value(of: knob)
          let half = simplest + (current - simplest) / 2
          isShrinking = half != current && keeps(knob, half)
        }
      }
    }
  }
}
