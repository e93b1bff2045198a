import ArgumentParser
import CommandOptions
import Session
import System

/// `postcopyctl recover`: goes on with a session, by the command of the side that it is of.
struct RecoverCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: RecoverVerb.name,
    abstract: "Go on with a VM's session after its processes died or were parked.",
    discussion: """
      Becomes `page-server recover` or `postcopyd recover`, found beside this program, for the \
      side whose journal is not finished on this host. Where both are, say which with --side, and \
      run one command for each.
      """)

  /// The sides by their names.
  enum Side: String, ExpressibleByArgument, CaseIterable {
    case source
    case destination

    var side: JournalSide { self == .source ? .source : .destination }
  }

  @OptionGroup var place: VMPlaceOptions

  @Option(help: "The side to go on with, where this host has both.")
  var side: Side?

  @Argument(
    parsing: .allUnrecognized,
    help: ArgumentHelp("Options of the session that are to be otherwise.", valueName: "options"))
  var options: [String] = []

  func validate() throws { _ = try place.vmName() }

  func run() throws {
    let side = try unfinishedSide()
    let program = side == .source ? "page-server" : "postcopyd"
    guard let directory = OwnExecutable.directory else {
      throw failure("this program's file is gone")
    }
    let stateDirectory = place.place.stateDir.map { ["--state-dir", $0] } ?? []
    let error = OwnExecutable.replace(
      with: "\(directory)/\(program)",
      arguments: [program, RecoverVerb.name, "--vm", place.vm] + stateDirectory + options)
    throw failure("\(error)")
  }

  private func unfinishedSide() throws -> JournalSide {
    let overviews: [SessionOverview]
    do throws(StateError) {
      overviews = try SessionOverview.all(in: try place.directory()).overviews
    } catch { throw failure("\(error)") }
    let sides = overviews.filter { $0.vmName == place.vm && $0.isUnfinished }.map(\.side)
    if let side {
      guard sides.contains(side.side) else {
        throw failure("VM \(place.vm) has no unfinished session here as \(side.rawValue)")
      }
      return side.side
    }
    switch sides.count {
    case 0: throw failure("VM \(place.vm) has no unfinished session on this host")
    case 1: return sides[0]
    default:
      throw failure(
        "both sides of VM \(place.vm) are unfinished on this host: run this once with --side "
          + "source and once with --side destination")
    }
  }

  private func failure(_ reason: String) -> ExitCode {
    StandardStream.error.write("postcopyctl: \(reason)\n")
    return ExitCode(1)
  }
}
