import ArgumentParser
import Session
import System

/// `postcopyctl certificates`: makes what `--tls` takes.
struct CertificatesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "certificates",
    abstract: "Make a private authority, and a directory for --tls for each host.",
    discussion: """
      Example:
        postcopyctl certificates certificates --host source,10.0.0.1 --host target,10.0.0.2

      Copy certificates/source to the one host and certificates/target to the other, over a \
      channel that you trust, such as ssh. Keep certificates/ca-key.pem to yourself: with it \
      further hosts are made, by the same command, and whoever has it is taken for any of them.
      """)

  @Argument(help: "The directory; an authority that is in it already signs the new hosts.")
  var directory: String

  @Option(
    help: ArgumentHelp(
      "A host: its names and addresses, separated by commas. May be given several times.",
      discussion: "Its directory is named after the first. Default: source and destination.",
      valueName: "names"))
  var host: [String] = []

  @Option(help: ArgumentHelp("How long the hosts' certificates are valid.", valueName: "days"))
  var days = 825

  func validate() throws {
    guard (1...3650).contains(days) else { throw ValidationError("--days must be 1 to 3650") }
    guard hosts.allSatisfy({ !$0.isEmpty && $0.allSatisfy { !$0.isEmpty } }) else {
      throw ValidationError("--host must be names and addresses, separated by commas")
    }
  }

  func run() throws {
    do throws(TLSDirectoryError) {
      try CertificateStore.make(directory, hosts: hosts, days: days)
    } catch {
      StandardStream.error.write("postcopyctl: \(error)\n")
      throw ExitCode(1)
    }
  }

  private var hosts: [[String]] {
    (host.isEmpty ? ["source", "destination"] : host).map {
      $0.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    }
  }
}
