internal import ArgumentParser
internal import LinkFaultKit
internal import System

/// Measures how soon a link that is lost without a word is noticed, and how soon the guest has its
/// next page once the link is back.
@main
struct LinkRecovery: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "link-recovery",
    abstract: "Time from a silent drop to link-lost, and from the link's return to the next page.",
    discussion: """
      One migration of a test VM that never stops needing pages; its link is lost again and again. \
      Times are of CLOCK_MONOTONIC in this process: the order to drop or to heal is stamped \
      before it is given, an event when its line is read, the guest's next page when its count of \
      operations was seen to grow (asked for every millisecond). So each figure is an upper bound.
      """)

  @Option(help: "How often the link is lost.")
  var rounds = 20

  @Option(help: "Where: network (namespaces and nftables) or relay (linkfault). Default: what can.")
  var link: String?

  @Option(help: ArgumentHelp("The heartbeat budget of both sides.", valueName: "ms"))
  var heartbeatBudget = 1000

  @Option(help: "Mixed into how long each outage takes.")
  var seed: UInt64 = 1

  @Option(help: ArgumentHelp("Where the programs are.", valueName: "directory"))
  var binaries: String

  @Flag(help: "Exit with 1 when a median is above 1.2 × the budget, or above 300 ms.")
  var check = false

  /// What the guest's next page may take once the link is back.
  private static let recoveryLimitMilliseconds = 300.0

  func validate() throws {
    guard (1...1000).contains(rounds), (200...60_000).contains(heartbeatBudget) else {
      throw ValidationError("1 to 1000 rounds, a budget of 200 to 60000 ms")
    }
    guard ["network", "relay", nil].contains(link) else {
      throw ValidationError("--link is network or relay")
    }
  }

  func run() throws {
    SignalSource.ignoreBrokenPipes()
    let isNetwork = link.map { $0 == "network" } ?? NamespacePair.isAvailable
    let stage = try Stage(
      binaries: binaries, budgetMilliseconds: heartbeatBudget,
      namespaces: isNetwork ? NamespacePair() : nil)
    defer { stage.end() }
    try stage.start()
    var results = Results()
    for round in 0..<rounds {
      results.add(try stage.loseLink(outage: seed &+ UInt64(round)))
      StandardStream.error.write("round \(round + 1) of \(rounds)\n")
    }
    print(
      "\(rounds) silent drops (\(isNetwork ? "nftables between namespaces" : "relay")), heartbeat "
        + "budget \(heartbeatBudget) ms; milliseconds")
    print(results.table)
    guard check else { return }
    let lost = results.medianLost
    let recovered = results.medianRecovery
    guard lost <= 1.2 * Double(heartbeatBudget), recovered <= Self.recoveryLimitMilliseconds else {
      throw ExitCode(1)
    }
  }
}
