internal import Migration

/// Runs one seed: both cores and the page ledger, first in safety mode (any trouble of the plan),
/// then in liveness mode (both hosts healthy, no new trouble: everything must come to an end).
public enum Simulation {
  /// The report of one seed. No clock, no hashing order and no other randomness enter into it.
  ///
  /// With `isTracing` the observer hears each line of the trace as it comes, also of a run that a
  /// broken invariant stops.
  public static func run(
    seed: UInt64, mutation: Mutation? = nil, changes: PlanChanges = PlanChanges(),
    isTracing: Bool = false, observer: ((String) -> Void)? = nil
  ) -> SimulationReport {
    var world = World(seed: seed, mutation: mutation, changes: changes, isTracing: isTracing)
    world.observer = observer
    world.run()
    return world.report(seed: seed)
  }

  /// The first seed from `first` on that catches a mutation; nil when none of `seedCount` does.
  public static func firstSeedThatCatches(
    _ mutation: Mutation, from first: UInt64 = 1, within seedCount: UInt64
  ) -> SimulationReport? {
    for seed in first..<first + seedCount {
      let report = run(seed: seed, mutation: mutation)
      if report.violation != nil { return report }
    }
    return nil
  }
}

extension World {
  /// What is told of a run that has ended.
  func report(seed: UInt64) -> SimulationReport {
    SimulationReport(
      seed: seed, violation: violation, fate: fate ?? .unknown,
      sourceStates: Set(SourceState.allCases.filter { visited[0] >> $0.rawValue & 1 == 1 }),
      destinationStates: Set(
        DestinationState.allCases.filter { visited[1] >> $0.rawValue & 1 == 1 }),
      isFenced: sourceJournal.records.contains {
        if case .fenced = $0 { true } else { false }
      },
      reconnectCount: reconnectCount, supersededCount: supersededCount,
      silenceCount: silenceCount, seedCounts: seedCounts, stepCount: stepCount, digest: digest,
      trace: trace)
  }
}
