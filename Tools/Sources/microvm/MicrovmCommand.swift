import ArgumentParser

/// The command and its subcommands.
@main
struct MicrovmCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "microvm",
    abstract: "A small VMM whose guest verifies every page that it reads.",
    discussion: "The control protocol is in Documentation/microvm.md.",
    subcommands: [RunCommand.self, ControlCommand.self, CompareCommand.self, DiskCommand.self])
}
