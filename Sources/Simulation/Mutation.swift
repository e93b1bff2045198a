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
  /// The fence lets the source's VM run before FENCED is durable.
  case fencedWithoutRecord
  /// A late page is written over one that is there already.
  case overwriteOnExisting
  /// The waiter of a page that is there already is not woken.
  case existingNotWoken
  /// Stale seeded pages are kept after the freeze.
  case missingDiscard
  /// Device state is loaded while stale seeded pages are still being dropped.
  case loadBeforeDiscard
  /// A page's seed of an earlier round overtakes that of a later one on another connection.
  case staleSeedAfterNewer
  /// What was sent of a round before its link broke counts as taken in.
  case seedTakenWhenSent
  /// What an earlier round has brought counts as taken in of a round that was lost.
  case seedToldByEarlierRound
  /// Of what a look in the middle of a round tells, what was sent already is forgotten too.
  case midwayLookForgetsSent
  /// What was sent in a lost round goes on to be what later deltas are made against, and compared
  /// with: a page that still holds it is not sent, though the destination has an older one.
  case deltaBaseOfLostRound
  /// What a thread of a lost link had read and not sent is remembered as sent: it does the same.
  case lateSeedRemembered
  /// A page of a lost round that holds what was sent of it, by its digest, counts as unwritten,
  /// whether the destination has taken that in or not.
  case sameWithoutBase
  /// What was sent of a page before it was zeros goes on to be compared with: a page that holds it
  /// again is not sent, and stays zeros at the destination.
  case deltaBaseBehindZeros
  /// When some of the pages of a delta are not staged, because there was no memory for them, what
  /// is staged of the others stays, though it is stale.
  case staleSeedBesideDelta
  /// A destination that could not keep a seed, of which the source knows nothing, does not ask for
  /// it when everything was pushed.
  case missingNotAskedFor
  /// A restarted destination has forgotten which pages the guest gave back.
  case removedRefetched
  /// What was received of a run when its link broke is installed as if it were whole.
  case halfRunInstalled
  /// The source frees its memory when everything has been sent once.
  case freeBeforeAcknowledgement
  /// Pages that have arrived but are not installed count as resident.
  case stagedCountedResident
  /// A destination that is to have every page before the VM runs looks only at those that somebody
  /// waits for.
  case allHereTooEarly
  /// After a reconnect a pending fault is not asked for again.
  case pendingFaultNotResent
  /// After a reconnect the source pushes before it was told the whole resident map.
  case pushBeforeMap
  /// A resident map whose link broke half way is continued with the next link's frames.
  case halfMapApplied
  /// Frames of a link that another one has taken the place of are still handled.
  case supersededHandled
  /// A link on which nothing is heard is never given up.
  case lossNeverNoticed
  /// A process that was stopped gives its link up before it looks at what has come meanwhile.
  case silenceNotDoubted
}
