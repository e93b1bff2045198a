public import Wire

/// What the source's journal holds about one session, in the order of its life.
///
/// `epoch` is the one that the record opens: base, base + 1 (the destination runs) or base + 2 (the
/// source runs again).
public enum SourceRecord: Hashable, Sendable {
  /// The session exists; the VM runs here. Proves nothing about a hand-off.
  case opened(session: SessionID, epoch: Epoch, mode: MigrationMode)
  /// The destination may run from here on; we may not, whatever happens to the link.
  case handedOff(epoch: Epoch)
  /// The destination has said RAN. Written without waiting: it saves a query after a restart.
  case ranAcknowledged(epoch: Epoch)
  /// The hand-off is void, by the destination's durable ABORTED or because GO never left us and
  /// never will: the VM may run here again.
  case resumed(epoch: Epoch)
  /// An operator swore that the destination is dead. Means what `resumed` means.
  case fenced(epoch: Epoch)
  /// The destination holds everything: the source's memory may be freed.
  case completed(epoch: Epoch)
  /// The session ended before any hand-off; the VM runs here. Written without waiting.
  case aborted(epoch: Epoch)
}

/// What the destination's journal holds about one session, in the order of its life.
public enum DestinationRecord: Hashable, Sendable {
  /// Attached to this session. The VM has not run here.
  case opened(session: SessionID, epoch: Epoch, mode: MigrationMode)
  /// Device state is loaded. Written without waiting: losing it costs the migration, not the VM.
  case prepared(epoch: Epoch)
  /// From here on the VM may be running here.
  case goAccepted(epoch: Epoch)
  /// GO was accepted, but the VM was never let run, or refused and is shown not running. Durable
  /// before its VMM is killed: a later life that finds the VMM gone knows that nothing ran.
  case runRuledOut(epoch: Epoch)
  /// The VM has run here.
  case ran(epoch: Epoch)
  /// Every page is resident, zero or removed.
  case complete(epoch: Epoch)
  /// The VM never ran here in this session and never will: its VMM was killed before this record.
  case aborted(epoch: Epoch, Refusal)
}

/// What a restarted worker sees of the VM itself, before it recovers a core.
public enum ObservedVM: UInt8, CaseIterable, Hashable, Sendable {
  /// Its vCPUs are stopped; it could run.
  case stopped
  /// Its vCPUs run.
  case running
  /// Its VMM is gone, or has been made unable to run.
  case gone
}
