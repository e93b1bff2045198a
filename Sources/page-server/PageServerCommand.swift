import ArgumentParser
import CommandOptions

/// `page-server`: the source host's side.
@main
struct PageServerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "page-server",
    abstract: "Serve the memory of a VM that moves to another host.",
    discussion: """
      Runs on the source host. It freezes the VM, hands it over, and answers every page that the \
      VM still misses at the destination. Until the hand-over any failure lets the VM run on here.
      """,
    version: Release.version,
    subcommands: [
      SendCommand.self, RecoverCommand.self, FenceCommand.self, ExportCommand.self,
      InspectCommand.self, ThrottleKeeperCommand.self,
    ])
}
