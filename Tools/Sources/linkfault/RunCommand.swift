internal import ArgumentParser
internal import LinkFaultKit
internal import System
internal import Uring

/// `linkfault run`: the relay.
struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run", abstract: "Listen, dial onward for each connection, and pass bytes on.",
    discussion: """
      Only loopback addresses and UNIX sockets. The log is JSON, one event a line on standard \
      output, with the time of CLOCK_MONOTONIC in "time_ns". Ends when no link has been open for \
      --idle-limit seconds after the first one, after --limit seconds, at "quit", SIGINT, SIGTERM.
      """)

  @Option(help: ArgumentHelp("Where the client dials: ADDRESS:PORT or unix:PATH."))
  var listen: String

  @Option(help: ArgumentHelp("Whom to dial for it.", valueName: "address"))
  var connect: String

  @Option(help: ArgumentHelp("A UNIX socket that takes orders.", valueName: "path"))
  var control: String?

  @Option(help: "What random choices begin with.")
  var seed: UInt64 = 1

  @Option(help: ArgumentHelp("So many random faults from the seed.", valueName: "count"))
  var chaos = 0

  @Option(help: ArgumentHelp("Over how long the random faults are spread.", valueName: "ms"))
  var chaosMilliseconds: UInt64 = 10_000

  @Option(help: ArgumentHelp("Ends at the latest after that time.", valueName: "seconds"))
  var limit: UInt64 = 600

  @Option(help: ArgumentHelp("Ends so long after the last link.", valueName: "seconds"))
  var idleLimit: UInt64 = 60

  @Flag(help: "No log.")
  var quiet = false

  /// Two hours: longer than any test, and short enough that a forgotten one is no burden.
  private static let maximumSeconds: UInt64 = 7200
  /// As many faults in one run as anybody reads about.
  private static let maximumChaosCount = 10_000

  func validate() throws {
    for (text, option) in [(listen, "--listen"), (connect, "--connect")] {
      guard try endpoint(text, option).isLocal else {
        throw ValidationError("\(option): only loopback addresses and UNIX sockets")
      }
    }
    guard (1...Self.maximumSeconds).contains(limit), (1...Self.maximumSeconds).contains(idleLimit)
    else { throw ValidationError("limits are 1 to \(Self.maximumSeconds) seconds") }
    guard (0...Self.maximumChaosCount).contains(chaos), chaosMilliseconds <= 86_400_000 else {
      throw ValidationError("at most \(Self.maximumChaosCount) faults in at most a day")
    }
  }

  func run() throws {
    // Before anything else: a signal may come at any time.
    let signals = try SignalSource()
    var options = RelayOptions(
      listen: try endpoint(listen, "--listen"), connect: try endpoint(connect, "--connect"))
    options.controlPath = control
    options.seed = seed
    options.orders = Chaos.orders(seed: seed, count: chaos, milliseconds: chaosMilliseconds)
    options.limitSeconds = limit
    options.idleSeconds = idleLimit
    try Relay(options, isQuiet: quiet).run(stop: signals.descriptor.rawValue)
  }

  private func endpoint(_ text: String, _ option: String) throws -> Endpoint {
    do throws(EndpointError) {
      return try Endpoint(parsing: text)
    } catch { throw ValidationError("\(option): \(error)") }
  }
}
