import ArgumentParser
import CommandOptions

/// `postcopyd`: the destination host's side.
@main
struct PostcopydCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "postcopyd",
    abstract: "Receive a VM that moves to this host and resolve its missing pages.",
    discussion: """
      Runs on the destination host. It takes the VM's userfaultfd over from its VMM, lets the VM \
      start here once the source has handed it over, and brings every page that it touches.
      """,
    version: Release.version,
    subcommands: [ReceiveCommand.self, RecoverCommand.self])
}
