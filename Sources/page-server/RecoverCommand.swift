import ArgumentParser
import CommandOptions
import Session

/// `page-server recover`: goes on with a session whose processes are gone.
struct RecoverCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: RecoverVerb.name,
    abstract: "Go on with a VM's session after its processes died or were parked.",
    discussion: """
      Example:
        page-server recover --vm web

      The session's options are known from its beginning; those said here count instead. Paths \
      among them begin where the session was begun. A worker that lives without a parent is \
      adopted. Exit codes as those of the command that began the session.
      """)

  @OptionGroup var recovery: RecoverOptions

  func validate() throws { _ = try recovery.place.vmName() }

  func run() throws {
    let arguments = try recovery.arguments(.source)
    try SendCommand.parse(arguments).run(verb: RecoverVerb.name, arguments: arguments)
  }
}
