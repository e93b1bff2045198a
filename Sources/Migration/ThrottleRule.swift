/// How much of its processor time a guest is to lose, so that its rounds come to fit. Pure.
///
/// The steps are those of QEMU's auto-converge (cpu-throttle-initial 20, cpu-throttle-increment 10,
/// throttle-trigger-threshold 50, two periods in turn), counted in rounds: two in turn that leave
/// more than half of what the one before left take the next step.
public struct ThrottleRule: Sendable {
  /// The first step, in percent.
  public static let firstPercent = 20
  /// Each further one.
  public static let stepPercent = 10
  /// What may be taken at most: something must be left, or the guest would notice that it stands.
  public static let allowedPercent = 1...99

  /// The most that this guest may lose.
  public let maximumPercent: Int
  /// What it loses now.
  public private(set) var percent = 0
  private var remaining: UInt64?
  private var slowRoundCount = 0

  /// A guest that runs at full speed, and may lose so much.
  public init(maximumPercent: Int) { self.maximumPercent = maximumPercent }

  /// What the guest is to lose from now on, after a round that is followed by another one.
  public mutating func roundEnded(_ round: SeedRoundResult) -> Int {
    // The first one has sent everything.
    let before = remaining ?? round.sentByteCount
    remaining = round.dirtiedByteCount
    guard round.dirtiedByteCount > before / 2 else {
      slowRoundCount = 0
      return percent
    }
    slowRoundCount += 1
    guard slowRoundCount >= Self.patience else { return percent }
    slowRoundCount = 0
    let next = percent == 0 ? Self.firstPercent : percent + Self.stepPercent
    percent = min(next, maximumPercent)
    return percent
  }

  /// One slow round may be a disturbance.
  private static let patience = 2
}
