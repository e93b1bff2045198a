internal import ArgumentParser
internal import Simulation

/// Runs the protocol simulator over seeds, or shows which seed catches a built-in mutation.
@main
struct Simulate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run both protocol cores under simulated trouble, one migration a seed.",
    discussion: """
      Exits with 1 when a seed breaks a property; that seed is printed with its trace, and the same
      seed gives the same trace again, on any machine.
      """)

  @Option(help: "How many seeds to run.")
  var seeds: UInt64 = 2000

  @Option(help: "The first seed.")
  var first: UInt64 = 1

  @Option(
    help: ArgumentHelp(
      "Build a bug in and count the seeds until it is caught; \"all\" takes them in turn.",
      valueName: "name"))
  var mutation: String?

  @Flag(help: "Print the trace of every seed, also of those that hold.")
  var trace = false

  @Flag(help: "Print each seed before it runs, to find one that stops the process.")
  var announce = false

  func validate() throws {
    guard let mutation, mutation != "all" else { return }
    if Mutation(rawValue: mutation) == nil {
      let known = Mutation.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("there is no mutation \(mutation); known are \(known)")
    }
  }

  func run() throws {
    if let mutation {
      let chosen = Mutation.allCases.filter { mutation == "all" || $0.rawValue == mutation }
      try hunt(chosen)
    } else {
      try sweep()
    }
  }

  private func sweep() throws {
    let clock = ContinuousClock()
    let start = clock.now
    var stepCount = 0
    var fates: [Fate: Int] = [:]
    for seed in first..<first + seeds {
      if announce { print("seed \(seed)") }
      let report = Simulation.run(seed: seed, isTracing: trace)
      stepCount += report.stepCount
      fates[report.fate, default: 0] += 1
      if trace { printTrace(of: report) }
      if let violation = report.violation {
        if !trace { printTrace(of: Simulation.run(seed: seed, isTracing: true)) }
        print("seed \(seed) breaks \(violation)")
        print("run it again: simulate --first \(seed) --seeds 1 --trace")
        throw ExitCode(1)
      }
    }
    let elapsed = clock.now - start
    let told = Fate.allCases.map { "\($0.rawValue) \(fates[$0, default: 0])" }
    print(
      "\(seeds) seeds from \(first): no violation; \(told.joined(separator: ", ")); "
        + "\(stepCount / Int(seeds)) steps and \(microseconds(elapsed) / Int(seeds)) µs a seed")
  }

  private func hunt(_ mutations: [Mutation]) throws {
    var missedCount = 0
    for mutation in mutations {
      let caught = Simulation.firstSeedThatCatches(mutation, from: first, within: seeds)
      if let caught, let violation = caught.violation {
        print("\(mutation.rawValue): caught after \(caught.seed - first + 1) seeds, \(violation)")
      } else {
        missedCount += 1
        print("\(mutation.rawValue): NOT caught by \(seeds) seeds")
      }
    }
    if missedCount > 0 { throw ExitCode(1) }
  }

  private func printTrace(of report: SimulationReport) {
    print("seed \(report.seed), digest \(String(report.digest, radix: 16))")
    for line in report.trace { print("  \(line)") }
  }

  private func microseconds(_ duration: Duration) -> Int {
    Int(duration.components.seconds) * 1_000_000
      + Int(duration.components.attoseconds / 1_000_000_000_000)
  }
}
