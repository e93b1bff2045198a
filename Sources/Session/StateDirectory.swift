internal import Glibc
internal import Pages
public import System
public import Wire

/// Why a directory or file of ours is not fit to be used.
public enum StateError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A call on it failed.
  case system(SystemError)
  /// Others may write into it: what we read there would prove nothing.
  case writableByOthers(path: String, permissions: UInt32)
  /// Another user owns it.
  case ownedByOther(path: String, user: UInt32)
  /// Something of that name is no directory.
  case notADirectory(path: String)
  /// The name of a VM cannot be used.
  case badName(String)
  /// Another process has a session of this VM; the holder's own line says which.
  case busy(vmName: String, side: JournalSide, holder: String)
  /// The user has no directory for state: no HOME, no XDG_STATE_HOME.
  case noHome

  /// One message with what to do.
  public var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .writableByOthers(let path, let permissions):
      "\(path) may be written by other users (mode 0\(String(permissions, radix: 8))); "
        + "run: chmod go-w \(path)"
    case .ownedByOther(let path, let user):
      "\(path) belongs to user \(user); use a directory of your own with --state-dir"
    case .notADirectory(let path): "\(path) is not a directory"
    case .badName(let reason): "bad VM name: \(reason)"
    case .busy(let vmName, let side, let holder):
      "VM \"\(vmName)\" has a session on this host as \(side.name) already: "
        + (holder.isEmpty ? "the process has not said who it is" : holder)
    case .noHome:
      "no directory for state: neither HOME nor XDG_STATE_HOME is set; say --state-dir"
    }
  }
}

/// Where a host keeps what must outlive our processes.
///
/// ```
/// STATE/vms/NAME/source.journal  destination.journal    on disk: survives a reboot
///                source.lock     destination.lock
///                source.session  destination.session
/// RUN/SESSION-ID/page-state                              on tmpfs: survives our processes only,
///                attach.json                             as the VM's memory does
///                guest-paused
/// RUN/throttle/GROUP                                     while a control group's bound is ours
/// RUN/control/HASH.source        HASH.destination        sockets
/// ```
public struct StateDirectory: Hashable, Sendable {
  /// The durable part.
  public let statePath: String
  /// The part in memory.
  public let runPath: String

  /// Exactly these two; nothing is made yet.
  public init(statePath: String, runPath: String) {
    self.statePath = statePath
    self.runPath = runPath
  }

  /// The usual places: /var/lib/postcopy for root, else under XDG_STATE_HOME (or ~/.local/state);
  /// the part in memory in /run/postcopy (a user's: XDG_RUNTIME_DIR), or in /dev/shm on a host
  /// where that is no tmpfs, as in some containers. `override` is the value of `--state-dir` and
  /// moves the durable part.
  public static func usual(
    override: String? = nil, isRoot: Bool, user: UInt32, environment: [String: String],
    isOnTmpfs: (String) -> Bool
  ) throws(StateError) -> StateDirectory {
    let runtime = isRoot ? "/run" : absolute(environment["XDG_RUNTIME_DIR"])
    let runPath: String
    if let runtime, isOnTmpfs(runtime) {
      runPath = runtime + "/postcopy"
    } else {
      runPath = isRoot ? "/dev/shm/postcopy" : "/dev/shm/postcopy-\(user)"
    }
    if let override { return StateDirectory(statePath: override, runPath: runPath) }
    if isRoot { return StateDirectory(statePath: "/var/lib/postcopy", runPath: runPath) }
    if let state = absolute(environment["XDG_STATE_HOME"]) {
      return StateDirectory(statePath: state + "/postcopy", runPath: runPath)
    }
    guard let home = absolute(environment["HOME"]) else { throw .noHome }
    return StateDirectory(statePath: home + "/.local/state/postcopy", runPath: runPath)
  }

  /// The usual places for this process's user and environment.
  public static func ofThisProcess(override: String? = nil) throws(StateError) -> StateDirectory {
    var environment: [String: String] = [:]
    for name in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME"] {
      environment[name] = ProcessEnvironment.value(of: name)
    }
    let user = UInt32(geteuid())
    return try usual(
      override: override, isRoot: user == 0, user: user, environment: environment,
      // A place that cannot be looked at is no place for page states.
      isOnTmpfs: { path in (try? FileSystem.isOnTmpfs(path)) ?? false })
  }

  /// The XDG rules: a relative or empty path counts as not set.
  private static func absolute(_ path: String?) -> String? {
    path.flatMap { $0.hasPrefix("/") ? $0 : nil }
  }

  /// The directory of one VM; its name is made fit for a file system.
  public func path(ofVM name: VMName) -> String { "\(statePath)/vms/\(name.fileName)" }

  /// The journal of one side of one VM.
  public func journalPath(ofVM name: VMName, side: JournalSide) -> String {
    "\(path(ofVM: name))/\(side.name).journal"
  }

  /// The lock of one side of one VM.
  public func lockPath(ofVM name: VMName, side: JournalSide) -> String {
    "\(path(ofVM: name))/\(side.name).lock"
  }

  /// The directory of one session.
  public func path(of session: SessionID) -> String { "\(runPath)/\(session.text)" }

  /// The page states of one session.
  public func pageStatePath(of session: SessionID) -> String {
    "\(path(of: session))/page-state"
  }

  /// Where a session's VMM has its memory, for a process that takes the session up again.
  public func attachmentPath(of session: SessionID) -> String {
    "\(path(of: session))/attach.json"
  }

  /// Makes the VM's directory, durably, and checks that nobody else can write into it.
  public func prepare(vm name: VMName) throws(StateError) {
    try Self.makePrivate(statePath)
    try Self.makePrivate("\(statePath)/vms")
    try Self.makePrivate(path(ofVM: name))
    do throws(SystemError) {
      // A name is durable when the directory that holds it is: the VM's, then those above.
      try FileSystem.synchronizeDirectory("\(statePath)/vms")
      try FileSystem.synchronizeDirectory(statePath)
    } catch {
      throw .system(error)
    }
  }

  /// Makes the session's directory under the run directory.
  public func prepare(session: SessionID) throws(StateError) {
    try Self.makePrivate(runPath)
    try Self.makePrivate(path(of: session))
  }

  /// Removes what a finished session left in the run directory.
  public func remove(session: SessionID) throws(StateError) {
    do throws(SystemError) {
      try FileSystem.removeFile(pageStatePath(of: session))
      try FileSystem.removeFile(attachmentPath(of: session))
      try FileSystem.removeFile(pauseMarkPath(of: session))
      try FileSystem.removeDirectory(path(of: session))
    } catch {
      throw .system(error)
    }
  }

  static func makePrivate(_ path: String) throws(StateError) {
    let status: FileStatus
    do throws(SystemError) {
      try FileSystem.createDirectories(path, permissions: 0o700)
      status = try FileStatus.of(path: path)
    } catch {
      throw .system(error)
    }
    guard status.isDirectory else { throw .notADirectory(path: path) }
    // root's directories are as good as ours: root can do anything anyway.
    guard status.ownerUser == geteuid() || status.ownerUser == 0 else {
      throw .ownedByOther(path: path, user: status.ownerUser)
    }
    guard status.permissions & 0o022 == 0 else {
      throw .writableByOthers(path: path, permissions: status.permissions)
    }
  }
}
