public import Migration
public import VMM
public import Wire

/// All that is known at the end of a session at the source.
public struct SourceResult: Sendable {
  /// How it ended.
  public var outcome: Outcome
  /// The session's id; nil when none began.
  public var session: SessionID?
  /// Moments of the hand-over.
  public var times: SourceTimes
  /// Nanoseconds from the session's start to its end.
  public var totalNanoseconds: UInt64
  /// The shortest round trip seen on the urgent connection.
  public var roundTripNanoseconds: UInt64?
  /// Pages of the image.
  public var totalPageCount: UInt64
  /// What the data plane did; nil when no destination came.
  public var counts: SourceCounts?
  /// What the guest had done when it was frozen, and how many of its pages it found wrong.
  public var guest: VMMStatus?
  /// How long the VM stood still for looks that no round has told of.
  public var lookPauseNanoseconds: UInt64
}
