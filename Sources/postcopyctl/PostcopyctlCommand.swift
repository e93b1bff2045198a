import ArgumentParser
import CommandOptions
import Session
import System

/// `postcopyctl`: what an operator does beside a migration.
@main
struct PostcopyctlCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "postcopyctl",
    abstract: "Prepare hosts for migrations, and look after those that run.",
    version: Release.version,
    subcommands: [
      TokenCommand.self, CertificatesCommand.self, DoctorCommand.self, ListCommand.self,
      StatusCommand.self, BandwidthCommand.self, SwitchCommand.self, ParkCommand.self,
      AbortCommand.self,
      RecoverCommand.self,
    ])
}

/// `postcopyctl token`: makes a session's secret.
struct TokenCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "token",
    abstract: "Make a session's secret: 32 random bytes in a file that only you can read.",
    discussion: "Copy the file to the other host over a channel that you trust, such as ssh.")

  @Argument(help: "The file; must not exist.")
  var file: String

  func run() throws {
    do throws(TokenFileError) {
      try TokenFile.create(file)
    } catch {
      StandardStream.error.write("postcopyctl: \(error)\n")
      throw ExitCode(1)
    }
  }
}

/// `postcopyctl doctor`: says what this host can do.
struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Say what this host can do for a migration, and how to get what is missing.")

  func run() throws {
    let host = HostCapabilities.probe().findings()
    // To itself, behind everything else: what a worker could do here is seen by doing it.
    let hardening = CommonOptions.hardenWorker(filteringSystemCalls: true).map { finding in
      HostFinding(
        finding.subject, finding.isDone ? .good : .limited,
        finding.text + (finding.remedy.map { "; \($0)" } ?? ""))
    }
    StandardStream.output.write(HostFinding.describe(host + hardening) + "\n")
  }
}
