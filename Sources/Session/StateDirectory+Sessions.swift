internal import System

// What belongs to a session that runs, or that can be gone on with.
extension StateDirectory {
  /// Where the session of one side of one VM listens for its operator. The name is a hash: a
  /// socket's path has at most 107 bytes, and VMs of one name in two state directories share the
  /// run directory.
  public func controlSocketPath(ofVM name: VMName, side: JournalSide) -> String {
    // Whoever names the directory another way means the same sessions. One that does not exist has
    // none.
    let state = (try? FileSystem.resolvedPath(statePath)) ?? statePath
    return "\(runPath)/control/\(VMName.hash(state + "\n" + name.text)).\(side.name)"
  }

  /// What a restart of one side of one VM needs to know.
  public func savedSessionPath(ofVM name: VMName, side: JournalSide) -> String {
    "\(path(ofVM: name))/\(side.name).session"
  }

  /// Makes the directory of the control sockets, for this user alone.
  public func prepareControlSockets() throws(StateError) {
    try Self.makePrivate(runPath)
    try Self.makePrivate("\(runPath)/control")
  }

  /// The paths of all journals of one side, in no particular order; none when there is no state
  /// yet.
  public func journalPaths(side: JournalSide) throws(StateError) -> [String] {
    do throws(SystemError) {
      return try FileSystem.entryNames(ofDirectory: "\(statePath)/vms")
        .map { "\(statePath)/vms/\($0)/\(side.name).journal" }
        .filter { (try? FileStatus.of(path: $0)) != nil }
    } catch {
      if error.errno == .noSuchEntry { return [] }
      throw .system(error)
    }
  }
}
