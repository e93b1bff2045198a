import ArgumentParser
import PageServer
import Pages
import Reporting
import Session
import Wire

/// The options of `export` that it shares with the other commands in name and meaning.
struct ExportOptions: ParsableArguments {
  @Option(help: ArgumentHelp("The VM's name, as it was for send.", valueName: "name"))
  var vm: String

  @Option(
    help: ArgumentHelp(
      "The token file of the session: the export is sealed with it.", valueName: "file"))
  var tokenFile: String

  @Option(
    help: ArgumentHelp(
      "Directory of the journals, as it was for send.", valueName: "directory"))
  var stateDir: String?

  @Flag(help: "Print events as JSON, one object a line, on standard output.")
  var json = false

  @Flag(name: .shortAndLong, help: "Say more of what happens.")
  var verbose = false

  @Flag(name: .shortAndLong, help: "Say nothing but errors.")
  var quiet = false

  func vmName() throws -> VMName {
    do { return try VMName(vm) } catch { throw ValidationError("--vm: \(error)") }
  }

  func console() -> Console {
    Console(
      vmName: vm,
      style: .ofThisProcess(isQuiet: quiet, isVerbose: verbose, isJSON: json))
  }

  func directory() throws(Refusal) -> StateDirectory {
    do throws(StateError) {
      return try StateDirectory.ofThisProcess(override: stateDir)
    } catch { throw Refusal(.journal, "\(error)") }
  }

  func token() throws(Refusal) -> SessionToken { try Self.readToken(tokenFile) }

  static func readToken(_ path: String) throws(Refusal) -> SessionToken {
    do throws(TokenFileError) {
      return try TokenFile.read(path)
    } catch { throw Refusal(.token, "\(error)") }
  }
}

extension ExportAwaited {
  /// Opens the file, or says why not as every other refusal.
  static func openOrRefuse(
    _ path: String, session: SessionID, layout: ImageLayout
  ) throws(ExportError) -> ExportAwaited {
    do throws(PageStateFileError) {
      return try open(path, session: session, layout: layout)
    } catch { throw .awaited(error) }
  }
}

/// An export in words.
enum ExportText {
  /// One line.
  static func summary(_ header: ExportHeader) -> String {
    let counts = header.counts
    return "\(Amounts.bytes(header.fileByteCount)), \(Amounts.count(counts.content)) pages of "
      + "content, \(Amounts.count(counts.zero)) of zeros, \(counts.poisoned) poisoned, "
      + "\(Amounts.count(counts.unheld)) left out because the destination has them"
  }

  /// Everything, for `inspect`.
  static func description(_ header: ExportHeader) -> String {
    let proof =
      switch header.proof {
      case .handedOff: "handed over; the destination may have run it"
      case .ranAcknowledged: "handed over; the destination ran it"
      }
    return """
      VM          \(header.vmName)
      session     \(header.session.text)
      epoch       \(header.handedOffEpoch.rawValue), \(proof)
      written at  \(header.createdAt)
      image       \(Amounts.bytes(header.layout.totalByteCount.rawValue)) in \
      \(header.layout.regions.count) regions
      file        \(summary(header))
      protection  \(header.isEncrypted ? "encrypted with the session's token" : "none but its mode")

      """
  }
}
