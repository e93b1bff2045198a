/// A bug that the simulator can be told to have, to show that its checks would find it.
///
/// Each is put into the simulated edge, never into the cores: what ships has no switch.
public enum Mutation: String, CaseIterable, Sendable {
  /// The source takes HANDED_OFF for durable before it is, and so says GO too early.
  case goBeforeLog
  /// The destination takes GO_ACCEPTED for durable before it is, and so runs too early.
  case runBeforeLog
  /// A handed-off source that has lost its link lets its VM run after a while.
  case sourceResumesOnTimeout
  /// A late page is written over one that is there already.
  case overwriteOnExisting
  /// The waiter of a page that is there already is not woken.
  case existingNotWoken
  /// Stale seeded pages are kept after the freeze.
  case missingDiscard
  /// Device state is loaded while stale seeded pages are still being dropped.
  case loadBeforeDiscard
  /// A restarted destination has forgotten which pages the guest gave back.
  case removedRefetched
  /// The source frees its memory when everything has been sent once.
  case freeBeforeAcknowledgement
  /// After a reconnect the source is told of a pending fault, but it is not asked for again.
  case pendingFaultNotResent
  /// Pages that have arrived but are not installed count as resident.
  case stagedCountedResident
}
