internal import Migration
public import Wire

/// What became of all the runs of a hand-over sweep.
public struct HandOverSummary: Hashable, Sendable {
  /// Runs.
  public private(set) var runCount = 0
  /// Runs in which every fault of the script came to pass.
  public private(set) var reachedCount = 0
  /// Runs that ended with the VM at the destination.
  public private(set) var movedCount = 0
  /// Runs that ended with the VM at the source.
  public private(set) var stayedCount = 0
  /// Faults that came to pass in some run; the others were never put to the test.
  public private(set) var reachedFaults: Set<HandOverFault> = []
  /// Each run that broke a property, with its finding.
  public private(set) var failures: [String] = []

  /// The faults that no run has come to.
  public var unreachedFaults: [HandOverFault] {
    HandOverFault.all.filter { !reachedFaults.contains($0) }
  }

  /// Nothing run yet.
  public init() {}

  /// Adds what another one has counted.
  public mutating func add(_ other: HandOverSummary) {
    runCount += other.runCount
    reachedCount += other.reachedCount
    movedCount += other.movedCount
    stayedCount += other.stayedCount
    reachedFaults.formUnion(other.reachedFaults)
    failures += other.failures
  }

  mutating func count(_ run: HandOverRun) {
    runCount += 1
    if run.hasReachedAll { reachedCount += 1 }
    reachedFaults.formUnion(run.reachedFaults)
    switch run.report.fate {
    case .moved: movedCount += 1
    case .stayed: stayedCount += 1
    case .died, .unknown: break
    }
    if let finding = run.finding { failures.append("\(run.name): \(finding)") }
  }
}

/// One hand-over with scripted faults and no other trouble.
public struct HandOverRun: Sendable {
  /// The mode, the seed and the faults.
  public let name: String
  /// What the simulation says of it.
  public let report: SimulationReport
  /// Whether every fault of the script came to pass.
  public let hasReachedAll: Bool
  /// The faults that came to pass, in their order.
  public let reachedFaults: [HandOverFault]
  /// What is wrong, nil when nothing is.
  public let finding: String?
}

extension Simulation {
  /// One hand-over in which these faults happen, each once; without them it completes.
  public static func handOver(
    _ faults: [HandOverFault], mode: MigrationMode, seed: UInt64 = 1, isTracing: Bool = false
  ) -> HandOverRun {
    var changes = PlanChanges()
    changes[.pages] = 12
    changes[.vcpus] = 2
    changes[.quick] = mode == .quick ? 1 : 0
    changes[.seeded] = mode == .postCopy ? 0 : 1
    changes[.preCopy] = mode == .preCopy ? 1 : 0
    changes[.fits] = 1
    changes[.trouble] = 40_000
    var world = World(
      seed: seed, mutation: nil, changes: changes, script: faults, isTracing: isTracing)
    world.run()
    let report = world.report(seed: seed)
    return HandOverRun(
      name: "\(mode.name) \(seed) "
        + faults.map(\.description).joined(separator: " "),
      report: report, hasReachedAll: world.script.isEmpty,
      reachedFaults: world.reachedFaults,
      finding: report.violation?.description ?? world.handOverFinding)
  }

  /// Every single fault, and with `withPairs` every ordered pair of faults whose first one is
  /// `faults[first]`, in every mode. A pair of the same point means its first two occurrences.
  public static func sweepHandOver(first: Int, withPairs: Bool, seed: UInt64) -> HandOverSummary {
    var summary = HandOverSummary()
    for mode in MigrationMode.allCases {
      let fault = HandOverFault.all[first]
      summary.count(handOver([fault], mode: mode, seed: seed))
      guard withPairs else { continue }
      for second in HandOverFault.all {
        summary.count(handOver([fault, second], mode: mode, seed: seed))
      }
    }
    return summary
  }
}

extension World {
  /// What has to be true of the end, whatever was lost or killed: without a durable HANDED_OFF the
  /// source's VM runs on; with one the VM moves, unless the destination's ABORTED undid it.
  var handOverFinding: String? {
    let isHandedOff = sourceJournal.durableRecords.contains {
      if case .handedOff = $0 { true } else { false }
    }
    let isAborted = destinationJournal.durableRecords.contains {
      if case .aborted = $0 { true } else { false }
    }
    switch fate {
    case .moved: return isHandedOff ? nil : "the VM moved without a durable HANDED_OFF"
    case .stayed:
      return isHandedOff && !isAborted
        ? "the source's VM runs again behind HANDED_OFF without ABORTED" : nil
    case .died, .unknown, nil: return "the hand-over came to no end"
    }
  }
}
