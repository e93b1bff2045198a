internal import ArgumentParser
internal import Simulation
internal import System

/// Runs the protocol simulator over seeds, or shows which seed catches a built-in mutation.
@main
struct Simulate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run both protocol cores under simulated trouble, one migration a seed.",
    discussion: """
      Exits with 1 when a seed breaks a property. That seed is shrunk: whatever trouble, pages and \
      vCPUs it does not need to fail are taken away. What is left is printed with its trace and \
      the line that runs it again; the same line gives the same trace, on any machine.
      """)

  @Option(help: "How many seeds to run.")
  var seeds: UInt64 = 2000

  @Option(help: "The first seed.")
  var first: UInt64 = 1

  @Option(help: "How many threads to use. The result does not depend on it.")
  var jobs: Int = 1

  @Option(
    help: ArgumentHelp(
      "Build a bug in and count the seeds until it is caught; \"all\" prints the table of all.",
      valueName: "name"))
  var mutation: String?

  @Option(
    help: ArgumentHelp(
      "Numbers of the plan that are not to be the seed's, as a shrunken seed prints them.",
      valueName: "knob=value,…"))
  var plan: String = ""

  @Flag(
    help: """
      Run hand-overs in which one message or record after the other is lost, doubled, delayed, or \
      one of the processes is killed at it: each fault, and each pair of faults, in each mode.
      """)
  var handOver = false

  @Flag(help: "Print the trace of every seed, also of those that hold.")
  var trace = false

  @Flag(help: "Print each seed before it runs, to find one that stops the process.")
  var announce = false

  func validate() throws {
    if PlanChanges(plan) == nil {
      let known = PlanKnob.allCases.map(\.name).joined(separator: ", ")
      throw ValidationError("\(plan) is no plan; its knobs are \(known)")
    }
    if !(1...64).contains(jobs) { throw ValidationError("--jobs takes 1 to 64") }
    if jobs > 1 && (trace || announce) {
      throw ValidationError("--trace and --announce tell of one seed after the other: --jobs 1")
    }
    guard let mutation, mutation != "all" else { return }
    if Mutation(rawValue: mutation) == nil {
      let known = Mutation.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("there is no mutation \(mutation); known are \(known)")
    }
  }

  private var changes: PlanChanges { PlanChanges(plan) ?? PlanChanges() }

  func run() throws {
    if handOver {
      try sweepHandOver()
    } else if let mutation {
      try hunt(Mutation.allCases.filter { mutation == "all" || $0.rawValue == mutation })
    } else {
      try sweep()
    }
  }

  private func sweep() throws {
    let clock = ContinuousClock()
    let start = clock.now
    let (first, seeds, changes) = (first, seeds, changes)
    let (announce, trace) = (announce, trace)
    let size = SweepPart.seedCountOfPart
    let parts = try Workers.run(
      jobCount: jobs, pieceCount: Int((seeds + size - 1) / size),
      isLast: { $0.failedSeed != nil },
      { piece in
        let offset = UInt64(piece) * size
        return SweepPart.run(
          first: first + offset, count: min(size, seeds - offset), changes: changes,
          announces: announce, traces: trace)
      })
    var whole = SweepPart()
    for part in parts { whole.add(part) }
    if let seed = whole.failedSeed {
      explain(seed, nil)
      throw ExitCode(1)
    }
    let count = max(1, whole.seedCount)
    print(
      "\(whole.seedCount) seeds from \(first): no violation; \(whole.fates); "
        + "digest \(String(whole.digest, radix: 16)); \(whole.stepCount / count) steps and "
        + "\(microseconds(clock.now - start) * jobs / count) µs a seed")
  }

  /// Shrinks a failing seed and tells all about it.
  private func explain(_ seed: UInt64, _ mutation: Mutation?) {
    guard let shrunken = Simulation.shrink(seed: seed, mutation: mutation, changes: changes),
      let violation = shrunken.report.violation
    else { return }
    Self.printTrace(
      of: Simulation.run(
        seed: seed, mutation: mutation, changes: shrunken.changes, isTracing: true))
    print("seed \(seed) breaks \(violation)")
    print("shrunk by \(shrunken.runCount) runs; run what is left again:")
    let told = mutation.map { " --mutation \($0.rawValue)" } ?? ""
    print("  Tools/simulate --first \(seed) --seeds 1\(told) --plan \(shrunken.changes) --trace")
  }

  private func hunt(_ mutations: [Mutation]) throws {
    let (first, seeds) = (first, seeds)
    if trace, let mutation = mutations.first, mutations.count == 1 {
      for seed in first..<first + seeds {
        let report = Simulation.run(
          seed: seed, mutation: mutation, changes: changes, isTracing: true)
        Self.printTrace(of: report)
        if let violation = report.violation { print("seed \(seed) breaks \(violation)") }
      }
      return
    }
    let found = try Workers.run(
      jobCount: jobs, pieceCount: mutations.count, isLast: { _ in false },
      { Simulation.firstSeedThatCatches(mutations[$0], from: first, within: seeds) })
    let width = mutations.map(\.rawValue.count).max() ?? 0
    print("\("mutation".padded(to: width))  seeds  caught by")
    var missedCount = 0
    for (mutation, report) in zip(mutations, found) {
      let name = mutation.rawValue.padded(to: width)
      if let report, let violation = report.violation {
        let count = "\(report.seed - first + 1)"
        print("\(name)  \(count.padded(to: 5))  \(violation.property): \(violation.finding)")
      } else {
        missedCount += 1
        print("\(name)  NOT caught by \(seeds) seeds")
      }
    }
    if missedCount > 0 { throw ExitCode(1) }
    if mutations.count == 1, let seed = found.first??.seed { explain(seed, mutations[0]) }
  }

  private func sweepHandOver() throws {
    let faults = HandOverFault.all
    let first = first
    let parts = try Workers.run(
      jobCount: jobs, pieceCount: faults.count, isLast: { _ in false },
      { Simulation.sweepHandOver(first: $0, withPairs: true, seed: first) })
    var whole = HandOverSummary()
    for part in parts { whole.add(part) }
    print(
      "\(faults.count) faults, \(whole.runCount) hand-overs with one or two of them in each mode; "
        + "every fault came to pass in \(whole.reachedCount); moved \(whole.movedCount), "
        + "stayed \(whole.stayedCount), \(whole.failures.count) wrong")
    for failure in whole.failures.prefix(20) { print("  \(failure)") }
    for fault in whole.unreachedFaults { print("  never came to pass: \(fault)") }
    if !whole.failures.isEmpty || !whole.unreachedFaults.isEmpty { throw ExitCode(1) }
  }

  static func printTrace(of report: SimulationReport) {
    print("seed \(report.seed), digest \(String(report.digest, radix: 16))")
    for line in report.trace { print("  \(line)") }
  }

  private func microseconds(_ duration: Duration) -> Int {
    Int(duration.components.seconds) * 1_000_000
      + Int(duration.components.attoseconds / 1_000_000_000_000)
  }
}

extension String {
  /// Spaces behind it up to that many characters.
  fileprivate func padded(to count: Int) -> String {
    self + String(repeating: " ", count: max(0, count - self.count))
  }
}
