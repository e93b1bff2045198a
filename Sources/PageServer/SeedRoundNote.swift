public import Migration
internal import Wire

/// What happens in the rounds, for whoever watches them.
public struct SeedRoundNote: Hashable, Sendable {
  /// Which round, counted from 1.
  public var number: UInt64
  /// What it came to.
  public var result: SeedRoundResult
  /// What follows it.
  public var verdict: RoundVerdict
  /// How long the VM would stand still if it were stopped now; nil while the link's rate is not
  /// known.
  public var predictedDowntimeNanoseconds: UInt64?
  /// How much of its processor time the guest loses from then on, in percent.
  public var throttlePercent = 0
  /// By what it is taken; nil while nothing is.
  public var throttleMeans: ThrottleMeans?
  /// Who tells what it writes.
  public var tracking = WriteTracking.vmm
  /// How long the VM stood still for the looks at what it wrote, this round's and those before it
  /// that no round has told; 0 where it runs on meanwhile.
  public var lookPauseNanoseconds: UInt64 = 0
}

/// How the rounds over one link have come to their end.
enum SeedRunEnd: Sendable {
  /// It is time to switch.
  case decided(SwitchReason)
  /// A limit is reached behind which the VM is to stay.
  case staying(SwitchReason)
  /// The link is lost, or the rounds were cancelled.
  case linkLost
  /// The destination takes nothing in, though it lives.
  case unanswered
  /// Nobody tells any more which pages are written.
  case failed(Refusal)
}
