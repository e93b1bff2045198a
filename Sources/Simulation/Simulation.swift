internal import Migration

/// Runs one seed: both cores and the page ledger, first under trouble, then in a healthy tail.
public enum Simulation {
  /// The report of one seed. No clock, no hashing order and no other randomness enter into it.
  public static func run(
    seed: UInt64, mutation: Mutation? = nil, isTracing: Bool = false
  ) -> SimulationReport {
    var world = World(seed: seed, mutation: mutation, isTracing: isTracing)
    world.run()
    return SimulationReport(
      seed: seed, violation: world.violation, fate: world.fate ?? .unknown,
      sourceStates: Set(SourceState.allCases.filter { world.visited[0] >> $0.rawValue & 1 == 1 }),
      destinationStates: Set(
        DestinationState.allCases.filter { world.visited[1] >> $0.rawValue & 1 == 1 }),
      stepCount: world.stepCount, digest: world.digest, trace: world.trace)
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
