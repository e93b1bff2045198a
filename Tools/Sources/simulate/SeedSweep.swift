internal import Simulation
internal import System

/// What a stretch of seeds came to.
struct SweepPart: Sendable {
  var seedCount = 0
  var stepCount = 0
  /// By the fate's position among all fates.
  var fateCounts = [Int](repeating: 0, count: Fate.allCases.count)
  /// Over all reports, in the order of the seeds.
  var digest: UInt64 = 0xcbf2_9ce4_8422_2325
  /// The first seed that broke a property.
  var failedSeed: UInt64?

  mutating func count(_ report: SimulationReport) {
    seedCount += 1
    stepCount += report.stepCount
    fateCounts[Fate.allCases.firstIndex(of: report.fate) ?? 0] += 1
    stir(report.digest)
    if report.violation != nil { failedSeed = report.seed }
  }

  mutating func add(_ other: SweepPart) {
    seedCount += other.seedCount
    stepCount += other.stepCount
    for index in fateCounts.indices { fateCounts[index] += other.fateCounts[index] }
    stir(other.digest)
    failedSeed = failedSeed ?? other.failedSeed
  }

  private mutating func stir(_ value: UInt64) {
    digest = (digest ^ value) &* 0x0000_0100_0000_01b3
  }

  /// For people.
  var fates: String {
    zip(Fate.allCases, fateCounts).map { "\($0.rawValue) \($1)" }.joined(separator: ", ")
  }

  /// At once, not when a buffer is full: what comes next may stop the process.
  private static func tell(_ line: String) {
    // Nobody reads it any more: then nobody misses it.
    _ = StandardStream.output.write(line + "\n")
  }

  /// How many seeds one piece of work has: small enough to end soon behind a failing one.
  static let seedCountOfPart: UInt64 = 500

  /// The seeds from `first` on, up to the first that fails.
  static func run(
    first: UInt64, count: UInt64, changes: PlanChanges, announces: Bool, traces: Bool
  ) -> SweepPart {
    var part = SweepPart()
    for seed in first..<first + count {
      if announces { Self.tell("seed \(seed)") }
      let report = Simulation.run(
        seed: seed, changes: changes, isTracing: traces,
        observer: traces ? { Self.tell("  \($0)") } : nil)
      if traces { Self.tell("seed \(seed), digest \(String(report.digest, radix: 16))") }
      part.count(report)
      if part.failedSeed != nil { break }
    }
    return part
  }
}
