public import System

/// Why a journal cannot be used, and what that means for the session.
public enum JournalError: Error, Hashable, Sendable, CustomStringConvertible {
  /// It cannot be opened, read or made.
  case unavailable(SystemError)
  /// A record that was durable does not check any more. Nothing is cut: what it proved is unknown.
  case damaged(path: String, slot: Int, reason: String)
  /// A record was written by another version of this program.
  case otherVersion(path: String, version: UInt16)
  /// No room is left for a record: see `Journal.maximumSlotCount`.
  case full(path: String)
  /// The record was not written: the disk or quota is full. Nothing was promised, nothing changed.
  case notWritten(SystemError)
  /// Writing or syncing failed half way: the record may be durable or not.
  case uncertain(SystemError)
  /// An earlier append failed. After a failed sync the kernel forgets which pages were dirty, so no
  /// later sync proves anything: the journal must be opened anew.
  case failedBefore(path: String)
  /// A record checks, but this program cannot read what it says.
  case notUnderstood(path: String, slot: Int, reason: String)

  /// What happened, and what it means for the session.
  public var description: String {
    switch self {
    case .unavailable(let error):
      "the journal cannot be used: \(error). Without it no VM is moved: free space or permissions "
        + "there, or name another directory with --state-dir"
    case .damaged(let path, let slot, let reason):
      "the journal \(path) is damaged at record \(slot): \(reason). What it proved is unknown, so "
        + "nothing runs because of it; keep the file and find out on both hosts where the VM runs"
    case .otherVersion(let path, let version):
      "the journal \(path) was written by another version of this program (format \(version)); "
        + "finish that session with the version that started it"
    case .full(let path):
      "the journal \(path) is full; move it away once no VMM of that VM from before exists"
    case .notWritten(let error):
      "the journal has no room: \(error). The step was not taken; free space there"
    case .uncertain(let error):
      "the journal could not be made durable: \(error). It is unknown whether the last record is "
        + "on disk; the step that it allows was not taken"
    case .failedBefore(let path):
      "the journal \(path) failed before and is not used again by this process"
    case .notUnderstood(let path, let slot, let reason):
      "the journal \(path), record \(slot), says something unknown: \(reason)"
    }
  }

  /// Whether the record of a failed append may be found by whoever opens the journal next.
  public var recordMayBeDurable: Bool {
    if case .uncertain = self { return true }
    return false
  }
}
