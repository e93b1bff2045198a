public import Migration
internal import Pages
public import Session
internal import System
public import VMM
public import Wire

/// Which session of a VM an export may be made of: the last one of this very VM, if it handed the
/// VM over and is not known to have ended.
public struct ExportableSession: Hashable, Sendable {
  /// The session.
  public let session: SessionID
  /// The source's epoch before the hand-off.
  public let epoch: Epoch
  /// How the migration is done.
  public let mode: MigrationMode
  /// What the journal proves.
  public let proof: ExportProof

  /// Decides from the VM's journal.
  public static func decide(
    vmName: String, current: VMBinding, histories: [SessionHistory<SourceRecord>]
  ) throws(Refusal) -> ExportableSession {
    for history in histories.reversed() {
      let comparison = current.compare(history.binding)
      guard comparison != .different else { continue }
      let session = history.session.text
      switch (SourceStanding(history.records), comparison) {
      case (.kept, .same):
        throw Refusal(
          .session,
          "VM \"\(vmName)\" was not handed over in session \(session), or came back: it is here, "
            + "and there is nothing to salvage")
      case (.kept, _): continue
      case (.completed(let epoch), .same):
        throw Refusal(
          .session,
          "VM \"\(vmName)\" arrived whole in session \(session) (epoch \(epoch.rawValue)): the "
            + "destination needs nothing from here")
      case (.handedOff, .same): return try of(history, vmName)
      case (.handedOff, _), (.completed, _):
        throw Refusal(
          .session,
          "a VM named \"\(vmName)\" was handed over in session \(session), and neither process nor "
            + "memory file tells whether this memory is its own; name the same --memory as then")
      }
    }
    throw Refusal(
      .session,
      "this memory of VM \"\(vmName)\" was never handed over by this host, so no destination waits "
        + "for it; name the --memory and --state-dir of the migration")
  }

  private static func of(
    _ history: SessionHistory<SourceRecord>, _ vmName: String
  ) throws(Refusal) -> ExportableSession {
    guard case .opened(let session, let epoch, let mode) = history.records.first,
      history.records.contains(.handedOff(epoch: epoch.advanced(by: 1)))
    else {
      throw Refusal(
        .journal, "the journal of VM \"\(vmName)\" does not say in which epoch it was handed over")
    }
    let hasRun = history.records.contains(.ranAcknowledged(epoch: epoch.advanced(by: 1)))
    return ExportableSession(
      session: session, epoch: epoch, mode: mode, proof: hasRun ? .ranAcknowledged : .handedOff)
  }
}

/// Everything that is checked, locked and opened before an export is written. While it lives, no
/// session of the VM can begin on this host.
public struct ExportPreparation: ~Copyable {
  /// The frozen memory.
  public let backing: any MemoryBacking
  /// The session that it belongs to.
  public let session: ExportableSession
  private let lock: VMLock

  /// Prepares the export of a VM's memory. A front end that can tell is asked whether the VM runs.
  public init(
    vmName name: VMName, memory: MemorySource, frontEnd: any VMMFrontEnd, token: SessionToken,
    directory: StateDirectory
  ) throws(Refusal) {
    guard FileSystem.exists(directory.journalPath(ofVM: name, side: .source)) else {
      throw Refusal(
        .session,
        "no VM \"\(name.text)\" was ever sent from here: there is no journal of it under "
          + "\(directory.statePath); name the --state-dir of the migration")
    }
    if case .export = memory {
      throw Refusal(.memory, "\(memory) is an export already: copy the file")
    }
    let backing = try SourcePreflight.open(memory, token)
    let status: VMMStatus
    do throws(VMMError) {
      status = try frontEnd.status()
    } catch { throw Refusal(.vmm, "\(error)") }
    guard status.state != .running, status.state != .pausing else {
      throw Refusal(
        .vmm,
        "the VMM says that VM \"\(name.text)\" is \(status.state.rawValue): its memory is not the "
          + "one that was handed over")
    }
    let binding = try SourcePreflight.binding(name, backing, vmmProcess: status.pid)
    // The journal is read under the lock: nobody adds to it meanwhile.
    let lock = try SourcePreflight.takeLock(of: name, in: directory)
    let journal = try SourcePreflight.openJournal(of: name, in: directory)
    session = try ExportableSession.decide(
      vmName: name.text, current: binding, histories: journal.histories)
    self.backing = backing
    self.lock = lock
  }
}
