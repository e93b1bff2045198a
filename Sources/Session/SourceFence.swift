internal import Migration
internal import System
public import Wire

/// Why a VM was not fenced. Nothing was changed.
public enum SourceFenceError: Error, Hashable, Sendable, CustomStringConvertible {
  /// No session of the VM was ever begun here.
  case noSession(vmName: String)
  /// The state directory cannot be used, or a process has the session: it must end first.
  case state(StateError)
  /// The journal cannot be read or written.
  case journal(JournalError)
  /// The source still has the VM, or has it again: nothing stands in its way.
  case kept(vmName: String, SessionID)
  /// The destination has said that the VM runs there: what it did since is not in the memory here.
  case ran(vmName: String, SessionID)
  /// The destination has all of it.
  case completed(vmName: String, SessionID)

  /// One message with what to do instead.
  public var description: String {
    switch self {
    case .noSession(let vmName): "no session of VM \"\(vmName)\" was begun on this host"
    case .state(let error): "\(error)"
    case .journal(let error): "\(error)"
    case .kept(let vmName, let session):
      "VM \"\(vmName)\" was not handed over in session \(session.text), or came back: it may run "
        + "here without any fence"
    case .ran(let vmName, let session):
      "the destination has said that VM \"\(vmName)\" runs there (session \(session.text)): what "
        + "is here is its memory from before, and its disks and peers have gone on. Go on with the "
        + "session at the destination"
    case .completed(let vmName, let session):
      "VM \"\(vmName)\" has moved away whole in session \(session.text): only an empty shell is "
        + "left here"
    }
  }
}

/// The one way around a hand-off: an operator swears that the destination is dead.
public enum SourceFence {
  /// What was fenced.
  public struct Fenced: Hashable, Sendable {
    /// The session.
    public var session: SessionID
    /// The epoch that FENCED opens: the source's again.
    public var epoch: Epoch
  }

  /// Writes FENCED, durably, when the VM's last session stands at HANDED_OFF, and only then: not
  /// when the destination has said RAN. From then on the session's recovery lets the VM run here.
  /// Takes the VM's lock meanwhile.
  public static func raise(
    vm name: VMName, in directory: StateDirectory
  ) throws(SourceFenceError) -> Fenced {
    guard (try? FileStatus.of(path: directory.journalPath(ofVM: name, side: .source))) != nil
    else { throw .noSession(vmName: name.text) }
    let lock = try takeLock(of: name, in: directory)
    let fenced = try write(name, directory)
    // Nobody else may have the session before FENCED is durable.
    _ = consume lock
    return fenced
  }

  private static func takeLock(
    of name: VMName, in directory: StateDirectory
  ) throws(SourceFenceError) -> VMLock {
    do throws(StateError) {
      return try VMLock.take(vm: name, side: .source, in: directory)
    } catch {
      throw .state(error)
    }
  }

  private static func write(
    _ name: VMName, _ directory: StateDirectory
  ) throws(SourceFenceError) -> Fenced {
    var journal = try translating { () throws(JournalError) in
      try SourceJournal.open(vm: name, in: directory)
    }
    guard let history = journal.histories.last,
      case .opened(let session, let base, _)? = history.records.first
    else { throw .noSession(vmName: name.text) }
    switch history.records.last {
    case .handedOff: break
    case .ranAcknowledged: throw .ran(vmName: name.text, session)
    case .completed: throw .completed(vmName: name.text, session)
    case .opened, .resumed, .fenced, .aborted, nil: throw .kept(vmName: name.text, session)
    }
    let epoch = base.advanced(by: 2)
    do throws(JournalError) {
      try journal.append(.fenced(epoch: epoch), binding: history.binding)
    } catch {
      throw .journal(error)
    }
    return Fenced(session: session, epoch: epoch)
  }

  private static func translating<Result: ~Copyable>(
    _ body: () throws(JournalError) -> Result
  ) throws(SourceFenceError) -> Result {
    do throws(JournalError) { return try body() } catch { throw .journal(error) }
  }
}
