internal import ArgumentParser
internal import LinkFaultKit

/// The relay of the tests, and a client for its control socket.
@main
struct LinkfaultCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "linkfault",
    abstract: "Passes connections on, and makes the link fail as told.",
    subcommands: [RunCommand.self, OrderCommand.self])
}
