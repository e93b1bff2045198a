/// What one round of seeds came to.
public struct SeedRoundResult: Hashable, Sendable {
  /// Bytes of pages that were sent; those that read as zeros are told and do not count, and of
  /// those that went as what had changed of them, that does.
  public var sentByteCount: UInt64
  /// Bytes of pages that did not have to be sent, since all or most of them had not changed.
  public var savedByteCount: UInt64
  /// From its first page to the moment when the destination had taken in its last one.
  public var nanoseconds: UInt64
  /// Bytes of memory that were written meanwhile, behind their being sent: what the next round has
  /// to send.
  public var dirtiedByteCount: UInt64
  /// Bytes of memory that were written in the last part of the round, which is about as long as the
  /// next one where the log tells that much.
  public var writtenByteCount: UInt64
  /// How long that part was.
  public var writtenNanoseconds: UInt64
  /// A round trip of the link, with which each round ends; nil while none was measured.
  public var roundTripNanoseconds: UInt64?
  /// How long it took to ask what was written.
  public var lookNanoseconds: UInt64 = 0

  /// A result with all its parts, but that all was written during the whole of the round.
  public init(
    sentByteCount: UInt64, nanoseconds: UInt64, dirtiedByteCount: UInt64,
    roundTripNanoseconds: UInt64? = nil, savedByteCount: UInt64 = 0
  ) {
    writtenByteCount = dirtiedByteCount
    writtenNanoseconds = nanoseconds
    self.sentByteCount = sentByteCount
    self.savedByteCount = savedByteCount
    self.nanoseconds = nanoseconds
    self.dirtiedByteCount = dirtiedByteCount
    self.roundTripNanoseconds = roundTripNanoseconds
  }

  /// Bytes in a second; nil when the round was too short to tell, or had only zeros.
  public var bandwidth: Double? {
    sentByteCount == 0 ? nil : Self.rate(of: sentByteCount, in: nanoseconds)
  }
  /// Bytes in a second that the guest writes; nil when the round was too short to tell.
  public var dirtyRate: Double? { Self.rate(of: writtenByteCount, in: writtenNanoseconds) }

  /// How long a round takes that sends what this one has left, at this one's pace; no longer than
  /// this one.
  public var nextRoundNanoseconds: UInt64 {
    let gone = Double(sentByteCount) + Double(savedByteCount)
    guard Double(dirtiedByteCount) < gone else { return nanoseconds }
    return UInt64(Double(nanoseconds) * (Double(dirtiedByteCount) / gone))
  }

  private static func rate(of byteCount: UInt64, in nanoseconds: UInt64) -> Double? {
    nanoseconds == 0 ? nil : Double(byteCount) * 1e9 / Double(nanoseconds)
  }
}

/// Why the rounds have come to an end.
public enum SwitchReason: String, CaseIterable, Hashable, Sendable {
  /// The VM would stand still for no longer than the downtime target.
  case fits = "what is left fits the downtime target"
  /// The guest writes as fast as the link carries, or faster: another round gains nothing.
  case outrun = "the guest writes faster than the link carries"
  /// Two rounds in turn have left no less than the one before.
  case stalled = "the rounds leave no less to send"
  /// The guest writes to so much of its memory that the rounds cost more than they spare it: after
  /// the first one, or two in turn.
  case slowGain = "a round leaves more than half of what it sends"
  /// `--max-rounds`.
  case rounds = "the last round that was allowed is over"
  /// `--max-time`.
  case time = "the time for rounds is over"
  /// An operator asked for it.
  case told = "the operator says so"
}

/// What the rule says after a round.
public enum RoundVerdict: Hashable, Sendable {
  /// Another round follows. `obstacle`: why the rounds will not come to fit, as it looks now.
  case goOn(obstacle: SwitchReason?)
  /// The VM is to be stopped now.
  case switchOver(SwitchReason)
  /// A limit is reached behind which the VM is to stay where it is.
  case stay(SwitchReason)
}

/// What becomes of rounds that are to fit and have come to a limit.
public enum LimitAction: String, CaseIterable, Hashable, Sendable {
  /// The migration is given up, and the VM runs on at the source.
  case stay
  /// The VM is switched over, and what is left follows it, as in a hybrid migration.
  case switchOver = "switch"
}

/// When the rounds may end; the defaults are those of the command line.
public struct SwitchLimits: Hashable, Sendable {
  /// How long the VM may stand still, in nanoseconds; see `SwitchRule.predictedNanoseconds` for
  /// what counts.
  public var downtimeNanoseconds: UInt64
  /// How many rounds at most; at least 1, the first of which sends all memory. nil for any number.
  /// A guest that is still not there after thirty will not be.
  public var maximumRoundCount: UInt64?
  /// For how long, counted from the first page; nil for any time.
  public var maximumNanoseconds: UInt64?
  /// Mode *pre-copy*: rounds go on until what is left fits, or a limit is reached; this is what
  /// follows then. nil, mode *hybrid*: they end as soon as they gain nothing.
  public var atLimit: LimitAction?

  /// Limits with all their parts.
  public init(
    downtimeNanoseconds: UInt64 = 50_000_000, maximumRoundCount: UInt64? = 30,
    maximumNanoseconds: UInt64? = nil, atLimit: LimitAction? = nil
  ) {
    self.downtimeNanoseconds = downtimeNanoseconds
    self.maximumRoundCount = maximumRoundCount
    self.maximumNanoseconds = maximumNanoseconds
    self.atLimit = atLimit
  }
}

/// The rule that ends the rounds of a migration. Pure.
///
/// Rounds pay as long as each leaves less than the one before: what is left after the last one is
/// what the guest has to fault in. A guest that writes at the link's own rate leaves as much as was
/// sent, for ever, so the first round's measurement decides at once. So does one by which the next
/// round would leave more than half of what it sends: rounds that shrink by a tenth cost more than
/// they spare. Anything slower converges geometrically, until the guest's working set itself is
/// what each round leaves: the forecast then stops improving, and two such rounds in turn end it
/// (one may be a disturbance).
///
/// Pre-copy has no second part in which the guest could fault in what is left: there the same
/// findings are only told, and the rounds go on.
public struct SwitchRule: Sendable {
  /// How many rounds in turn may leave no less than the best one before them.
  public static let stalledRoundCount = 2

  /// The limits.
  public let limits: SwitchLimits
  /// How many rounds have ended.
  public private(set) var roundCount: UInt64 = 0
  /// Bytes in a second that the link carries, as far as the rounds have shown; nil before that.
  private var bandwidth: Double?
  /// What the last round says of a pause behind it.
  private var outlook = Outlook()
  private var smallestRemaining: UInt64?
  private var roundsWithoutGain = 0
  /// What the round under way has to send; nil in the first.
  private var remaining: UInt64?
  private var roundsWithoutHalving = 0
  /// The least that a lost round has left, and how many have left no less.
  private var smallestLeftByLoss: UInt64?
  private var lostRoundCount: UInt64 = 0
  /// The limit of the link was changed during the round.
  private var isRoundMixed = false

  /// Before the first round.
  public init(_ limits: SwitchLimits) { self.limits = limits }

  /// Judges after a round that was sent whole.
  ///
  /// - Parameter elapsedNanoseconds: since the first page of the first round.
  public mutating func roundEnded(
    _ round: SeedRoundResult, elapsedNanoseconds: UInt64
  ) -> RoundVerdict {
    roundCount += 1
    noteGain(round.dirtiedByteCount)
    let isMixed = isRoundMixed
    noteHalving(round, isMixed: isMixed)
    isRoundMixed = false
    if !isMixed { noteBandwidth(of: round) }
    outlook = Outlook(round)
    if fits(round.dirtiedByteCount) { return .switchOver(.fits) }
    let obstacle = isMixed ? nil : obstacle(to: round)
    if let obstacle, limits.atLimit == nil { return .switchOver(obstacle) }
    if roundsAreOver { return limitReached(.rounds) }
    if timeIsOver(elapsedNanoseconds) { return limitReached(.time) }
    return .goOn(obstacle: obstacle)
  }

  /// What follows a limit that has ended a round in its middle.
  public mutating func roundStopped(
    _ round: SeedRoundResult, by limit: SwitchReason
  ) -> RoundVerdict {
    // Its end waits for what was under way when it was stopped: as a measurement it is too slow.
    if !isRoundMixed, let measured = round.bandwidth {
      bandwidth = max(bandwidth ?? 0, measured)
    }
    isRoundMixed = false
    outlook = Outlook(round)
    if limits.atLimit != nil, fits(round.dirtiedByteCount) { return .switchOver(.fits) }
    return limitReached(limit)
  }

  private func limitReached(_ limit: SwitchReason) -> RoundVerdict {
    limits.atLimit == .stay ? .stay(limit) : .switchOver(limit)
  }

  /// Why more rounds like this one gain nothing; nil when they do.
  private func obstacle(to round: SeedRoundResult) -> SwitchReason? {
    // Of a later round this would say the same as that it has left no less than the one before.
    if roundCount == 1, let dirtyRate = round.dirtyRate, let bandwidth = round.bandwidth,
      dirtyRate >= bandwidth
    {
      return .outrun
    }
    if roundsWithoutGain >= Self.stalledRoundCount { return .stalled }
    guard limits.atLimit == nil else { return nil }
    return roundsWithoutHalving >= (roundCount == 1 ? 1 : Self.stalledRoundCount)
      ? .slowGain : nil
  }

  /// Whether `--max-time` is over: asked in the middle of a round, which then ends early.
  public func timeIsOver(_ elapsedNanoseconds: UInt64) -> Bool {
    limits.maximumNanoseconds.map { elapsedNanoseconds >= $0 } ?? false
  }

  private func fits(_ remaining: UInt64) -> Bool {
    guard let transfer = transferNanoseconds(for: remaining) else { return false }
    let target = limits.downtimeNanoseconds
    // A pause that is longer than the target without anything to send comes to it all the same.
    return transfer <= target - min(pauseNanoseconds, target / 2)
  }

  /// How long the VM would stand still behind the last round, which has left so many bytes: for
  /// these, and for the pause itself. nil while the link's rate is not known.
  ///
  /// The pause itself is the last look, which takes as long as the one before; one and a half round
  /// trips (device state and PREPARED, GO); `handOverNanoseconds`; and the time for what the guest
  /// writes until it is stopped. Of the downtime target it takes no more than half away from what
  /// is left.
  public func predictedNanoseconds(for remaining: UInt64) -> UInt64? {
    guard let transfer = transferNanoseconds(for: remaining) else { return nil }
    let (sum, isTooLong) = transfer.addingReportingOverflow(pauseNanoseconds)
    return isTooLong ? .max : sum
  }

  /// What both VMMs and both journals take of a pause: to stop the VM, to save, load and start it,
  /// and to write down twice who has it. Measured with a small VM as 8 ms; nothing tells it before.
  public static let handOverNanoseconds: UInt64 = 10_000_000

  private func transferNanoseconds(for remaining: UInt64) -> UInt64? {
    if remaining == 0 { return 0 }
    guard let bandwidth, bandwidth > 0 else { return nil }
    return Self.whole(Double(remaining) * 1e9 / bandwidth)
  }

  private var pauseNanoseconds: UInt64 {
    var sum = outlook.pauseNanoseconds
    if let bandwidth, bandwidth > 0 { sum += outlook.lateByteCount * 1e9 / bandwidth }
    return Self.whole(sum)
  }

  /// Rounded up: what is foretold to fit does.
  private static func whole(_ nanoseconds: Double) -> UInt64 {
    UInt64(exactly: nanoseconds.rounded(.up)) ?? .max
  }

  private struct Outlook {
    /// Before the first round.
    var pauseNanoseconds = Double(SwitchRule.handOverNanoseconds)
    /// What the guest writes in the round trip in which it is told what is stale already.
    var lateByteCount = 0.0

    init() {}

    init(_ round: SeedRoundResult) {
      let roundTrip = Double(round.roundTripNanoseconds ?? 0)
      pauseNanoseconds += roundTrip * 1.5 + Double(round.lookNanoseconds)
      lateByteCount = (round.dirtyRate ?? 0) * roundTrip / 1e9
    }
  }

  /// A round was lost with its link, before the destination had taken in all of it; so many bytes
  /// are left to send now. A lost round that leaves no less than the best of them counts against
  /// `--max-rounds`: a link that is lost in each would have them go on for ever. Those that leave
  /// less come to an end by themselves.
  public mutating func roundLost(remaining: UInt64) {
    // The next round has what the lost one did not bring to send as well.
    self.remaining = remaining
    if let smallest = smallestLeftByLoss, remaining >= smallest {
      lostRoundCount += 1
    } else {
      smallestLeftByLoss = remaining
    }
  }

  /// Whether `--max-rounds` is reached: asked on a new link, on which no further round then begins.
  public var roundsAreOver: Bool {
    limits.maximumRoundCount.map { roundCount + lostRoundCount >= $0 } ?? false
  }

  /// The link is another: what the last one carried tells nothing any more. Between two rounds.
  public mutating func linkChanged() { bandwidth = nil }

  /// Another limit of the link was set: what it carried tells nothing any more, nor does the round
  /// under way, of which a part went under the old one.
  public mutating func bandwidthChanged() {
    bandwidth = nil
    isRoundMixed = true
  }

  /// A short round is all round trip: it tells how fast the link is at least, not how fast. Of one
  /// that takes eight of them at most an eighth is the wait for its answer.
  private static let tellingRoundTripCount: UInt64 = 8
  /// Below it a round tells of the host's scheduling; and what counts while no round trip was
  /// measured.
  private static let tellingNanoseconds: UInt64 = 10_000_000
  private static let tellingNanosecondsUnmeasured: UInt64 = 100_000_000

  /// Nor does one that was mostly spent on finding out what need not be sent.
  private static func isTelling(_ round: SeedRoundResult) -> Bool {
    guard round.savedByteCount <= round.sentByteCount else { return false }
    guard let roundTrip = round.roundTripNanoseconds else {
      return round.nanoseconds >= tellingNanosecondsUnmeasured
    }
    let (needed, isTooLong) = roundTrip.multipliedReportingOverflow(by: tellingRoundTripCount)
    return !isTooLong && round.nanoseconds >= max(needed, tellingNanoseconds)
  }

  private mutating func noteBandwidth(of round: SeedRoundResult) {
    guard let measured = round.bandwidth else { return }
    if Self.isTelling(round) {
      bandwidth = measured
    } else {
      bandwidth = max(bandwidth ?? 0, measured)
    }
  }

  private mutating func noteHalving(_ round: SeedRoundResult, isMixed: Bool) {
    let hadToSend = remaining ?? round.sentByteCount + round.savedByteCount
    remaining = round.dirtiedByteCount
    // One that took no time tells nothing, nor one of which a part went under another limit.
    guard round.bandwidth != nil, !isMixed else { return }
    guard round.writtenNanoseconds > 0 else { return }
    // At the rate of its last part: what would be written in the whole of it.
    let written =
      Double(round.writtenByteCount)
      * (Double(round.nanoseconds) / Double(round.writtenNanoseconds))
    roundsWithoutHalving = 2 * written > Double(hadToSend) ? roundsWithoutHalving + 1 : 0
  }

  private mutating func noteGain(_ remaining: UInt64) {
    if let smallest = smallestRemaining, remaining >= smallest {
      roundsWithoutGain += 1
    } else {
      roundsWithoutGain = 0
      smallestRemaining = remaining
    }
  }
}
