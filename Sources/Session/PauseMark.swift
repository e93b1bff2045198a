internal import Glibc
public import System
public import Wire

/// What tells later processes of a session that an earlier one has asked the VMM to pause the guest
/// and has not undone it. On tmpfs, because a pause lives as long as the VMM's process at most.
public struct PauseMark: Sendable {
  /// The file.
  public let path: String

  /// The mark of that session, which may or may not be there.
  public init(of session: SessionID, in directory: StateDirectory) {
    path = directory.pauseMarkPath(of: session)
  }

  /// The mark of a pause at the source, for a look at what the VM writes.
  public init(ofLookIn session: SessionID, in directory: StateDirectory) {
    path = "\(directory.lookPausePath)/\(session.text)"
  }

  /// Whether it is there. What cannot be looked at counts as there: to let a guest run on that runs
  /// is harmless.
  public var isSet: Bool {
    do throws(SystemError) {
      _ = try FileStatus.of(path: path)
      return true
    } catch { return error.errno != .noSuchEntry }
  }

  /// Before the VMM is asked to pause: should nobody live to hear its answer, the next one knows.
  public func set() throws(SystemError) {
    _ = try OwnedDescriptor.open(path, flags: O_WRONLY | O_CREAT | O_NOFOLLOW, mode: 0o600)
  }

  /// Once the guest runs on.
  public func clear() throws(SystemError) { try FileSystem.removeFile(path) }
}

extension StateDirectory {
  /// Where marks of pauses for a look are.
  var lookPausePath: String { "\(runPath)/look-pauses" }

  /// Makes the place for them.
  public func prepareLookPauses() throws(StateError) {
    try Self.makePrivate(runPath)
    try Self.makePrivate(lookPausePath)
  }

  /// Where `PauseMark` is.
  public func pauseMarkPath(of session: SessionID) -> String {
    "\(path(of: session))/guest-paused"
  }
}
