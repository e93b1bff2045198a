import ArgumentParser
import Session
import System

/// `page-server throttle-keeper`: what `send` starts to keep the bound of a VM's control group.
struct ThrottleKeeperCommand: ParsableCommand {
  static let name = "throttle-keeper"
  static let configuration = CommandConfiguration(
    commandName: name,
    abstract: "Keep the bound of a VM's control group: a part of send.",
    shouldDisplay: false)

  /// The descriptor of the channel to the worker.
  @Option(help: .hidden)
  var keeperChannel: Int32

  func run() throws {
    BugExit.install()
    try ThrottleKeeper.run(inheritedNumber: keeperChannel)
  }
}
