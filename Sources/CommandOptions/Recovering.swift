public import ArgumentParser
internal import Migration
public import Session
internal import System
internal import Wire

/// The verb that both sides have for going on with a session.
public enum RecoverVerb {
  /// As it is typed.
  public static let name = "recover"
}

/// The options of `recover`: the VM, and whatever is to be otherwise than it was.
public struct RecoverOptions: ParsableArguments {
  /// Which VM.
  @OptionGroup public var place: VMPlaceOptions

  /// The first command's options that are said again.
  @Argument(
    parsing: .allUnrecognized,
    help: ArgumentHelp(
      "Options as the session was begun with; only those that are to be otherwise.",
      valueName: "options"))
  public var options: [String] = []

  /// For ArgumentParser.
  public init() {}

  /// The whole options of the session: those that were saved, with those given now behind them,
  /// where they count. A worker has got them all from its parent.
  public func arguments(_ side: JournalSide) throws -> [String] {
    let given = ["--vm", place.vm] + (place.place.stateDir.map { ["--state-dir", $0] } ?? [])
    if options.contains("--keeper-channel") { return given + options }
    let name = try place.vmName()
    let saved: SavedSession
    do throws(SavedSessionError) {
      saved = try SavedSessionFile.read(
        try directory().savedSessionPath(ofVM: name, side: side), vmName: name, side: side,
        boot: nil)
    } catch {
      guard case .none = error else { throw ValidationError("\(error)") }
      // All options may be said again; without the token's they are not all.
      if options.contains(where: { $0.hasPrefix("--token-file") }) { return given + options }
      StandardStream.error.write(
        "VM \(place.vm) has no session to go on with on this side (\(side.name)): none was begun "
          + "here, or it has ended; see postcopyctl status --vm \(place.vm)\n")
      throw ExitCode(Ending.refused.exitCode)
    }
    do throws(SystemError) {
      try FileSystem.changeDirectory(saved.workingDirectory)
    } catch { throw ValidationError("the session's working directory: \(error)") }
    return saved.arguments + options
  }

  private func directory() throws(SavedSessionError) -> StateDirectory {
    do throws(StateError) { return try place.directory() } catch { throw .state(error) }
  }
}

extension SessionDesk {
  /// The desk of a session that is about to begin.
  public static func atStart(vmName: VMName, side: JournalSide) throws -> SessionDesk {
    try SessionDesk(SessionStatus(vmName: vmName, side: side, state: "beginning"))
  }
}

extension CommonOptions {
  /// What was saved of the VM's session in this boot; nil when nothing was.
  public func savedSession(_ side: JournalSide) throws -> SavedSession? {
    let path = try directory().savedSessionPath(ofVM: try vmName(), side: side)
    return try? SavedSessionFile.read(
      path, vmName: try vmName(), side: side, boot: try BootID.current())
  }

  /// Opens the control socket and saves the session. Call it while the session holds the VM's lock,
  /// before it runs.
  public func begin(
    _ context: WorkerContext, _ desk: SessionDesk, side: JournalSide, recovered: SavedSession?
  ) throws {
    let directory = try directory()
    let name = try vmName()
    do throws(SavedSessionError) {
      try context.begin(
        in: directory, vmName: name, side: side, control: desk, recovered: recovered)
    } catch { throw Refusal(.journal, "\(error)") }
  }
}
