internal import Glibc
public import System

/// What a session's process shares with those around it: its keeper, its saved session, its control
/// socket. All of it begins once the VM's lock is held.
///
/// ```
/// the lock is held:    context.begin(in:vmName:side:control:)
/// the VMM attached:    context.keeper.keep(KeptName.userfault, …), (KeptName.vmm, …)
/// each event:          desk.update { $0.state = … }
/// the outcome:         desk.end(outcome)
/// COMPLETE, or killed: context.keeper.release()
/// the end:             context.end(exitCode:isOver:)             with the lock still held
/// ```
public final class WorkerContext: Sendable {
  private struct State {
    var saved: SavedSession?
    var path = ""
    var socket: ControlSocket?
  }

  /// Who keeps our descriptors.
  public let keeper: KeeperClient
  private let arguments: [String]
  private let state = Lock(State())

  /// The context of a process with that keeper; `arguments` are its options as they were given,
  /// without its verb.
  public init(keeper: KeeperClient = KeeperClient(), arguments: [String] = []) {
    self.keeper = keeper
    self.arguments = arguments
  }

  /// Opens the control socket and, unless `recovered` was read from it, saves the session. Call it
  /// with the VM's lock held: what is replaced is then nobody's.
  public func begin(
    in directory: StateDirectory, vmName: VMName, side: JournalSide,
    control: any SessionControl, recovered: SavedSession? = nil
  ) throws(SavedSessionError) {
    let path = directory.savedSessionPath(ofVM: vmName, side: side)
    var saved: SavedSession
    let socket: ControlSocket
    do throws(StateError) {
      try directory.prepareControlSockets()
    } catch { throw .state(error) }
    do throws(SystemError) {
      socket = try ControlSocket(
        path: directory.controlSocketPath(ofVM: vmName, side: side), control: control,
        keeper: keeper)
      let boot = try BootID.current()
      let directory = try FileSystem.resolvedPath(".")
      saved =
        recovered
        ?? SavedSession(
          vmName: vmName, side: side, boot: boot, arguments: arguments,
          workingDirectory: directory)
    } catch { throw .system(error) }
    saved.parent = (try? ProcessIdentity.of(pid: getppid())).map { SavedProcess($0) }
    try SavedSessionFile.write(saved, to: path)
    state.withLock { state in
      state.saved = saved
      state.path = path
      state.socket = socket
    }
  }

  /// A duplicate of the VM's userfaultfd that somebody kept: the keeper, or an earlier worker's
  /// parent that has stayed because nobody else holds one. nil when nobody did.
  public func keptUserfault(of saved: SavedSession?) -> OwnedDescriptor? {
    if let kept = try? keeper.inheritedDuplicate(named: KeptName.userfault) { return kept }
    guard let parent = saved?.parent?.identity, parent.isAlive, parent.pid != getppid(),
      let process = try? ProcessHandle.open(pid: parent.pid), process.identity == parent,
      var taken = try? TakenDescriptor.userfaultfds(of: process), taken.count == 1
    else { return nil }
    return taken.takeFirst()
  }

  /// Tells whoever follows the events: one line of `--json`, without its end. Never blocks.
  public func publish(_ line: String) {
    let socket = state.withLock { $0.socket }
    socket?.publish(line)
  }

  /// Closes the control socket, forgets a session that is over, and tells the keeper the exit code.
  /// Call it with the VM's lock still held, as the last thing.
  public func end(exitCode: Int32, isOver: Bool) {
    let (socket, path) = state.withLock { state in
      defer { state.socket = nil }
      return (state.socket, state.saved == nil ? nil : state.path)
    }
    socket?.close()
    // A file that stays names a session whose journal says that it is over.
    if isOver, let path { try? FileSystem.removeFile(path) }
    keeper.finished(exitCode: exitCode)
  }
}
