/// What one round of seeds came to.
public struct SeedRoundResult: Hashable, Sendable {
  /// Bytes of pages that were sent; those that read as zeros are told and do not count.
  public var sentByteCount: UInt64
  /// From its first page to the moment when the destination had taken in its last one.
  public var nanoseconds: UInt64
  /// Bytes of memory that were written meanwhile: what the next round has to send.
  public var dirtiedByteCount: UInt64

  /// A result with all its parts.
  public init(sentByteCount: UInt64, nanoseconds: UInt64, dirtiedByteCount: UInt64) {
    self.sentByteCount = sentByteCount
    self.nanoseconds = nanoseconds
    self.dirtiedByteCount = dirtiedByteCount
  }

  /// Bytes in a second; nil when the round was too short to tell, or had only zeros.
  public var bandwidth: Double? { sentByteCount == 0 ? nil : rate(of: sentByteCount) }
  /// Bytes in a second that the guest writes; nil when the round was too short to tell.
  public var dirtyRate: Double? { rate(of: dirtiedByteCount) }

  private func rate(of byteCount: UInt64) -> Double? {
    nanoseconds == 0 ? nil : Double(byteCount) * 1e9 / Double(nanoseconds)
  }
}

/// Why the rounds have come to an end.
public enum SwitchReason: String, CaseIterable, Hashable, Sendable {
  /// What is left would be sent within the downtime target.
  case fits = "what is left fits the downtime target"
  /// The guest writes as fast as the link carries, or faster: another round gains nothing.
  case outrun = "the guest writes faster than the link carries"
  /// Two rounds in turn have left no less than the one before.
  case stalled = "the rounds leave no less to send"
  /// `--max-rounds`.
  case rounds = "the last round that was allowed is over"
  /// `--max-time`.
  case time = "the time for rounds is over"
}

/// When the rounds may end; the defaults are those of the command line.
public struct SwitchLimits: Hashable, Sendable {
  /// How long the VM may stand still for what is left, in nanoseconds.
  public var downtimeNanoseconds: UInt64
  /// How many rounds at most; at least 1, the first of which sends all memory.
  public var maximumRoundCount: UInt64
  /// For how long, counted from the first page; nil for any time.
  public var maximumNanoseconds: UInt64?

  /// Limits with all their parts.
  public init(
    downtimeNanoseconds: UInt64 = 50_000_000, maximumRoundCount: UInt64 = 30,
    maximumNanoseconds: UInt64? = nil
  ) {
    self.downtimeNanoseconds = downtimeNanoseconds
    self.maximumRoundCount = maximumRoundCount
    self.maximumNanoseconds = maximumNanoseconds
  }
}

/// The rule that ends the rounds of a hybrid migration. Pure.
///
/// Rounds pay as long as each leaves less than the one before: what is left after the last one is
/// what the guest has to fault in. A guest that writes at the link's own rate leaves as much as was
/// sent, for ever, so the first round's measurement decides at once. Anything slower converges
/// geometrically, until the guest's working set itself is what each round leaves: the forecast
/// then stops improving, and two such rounds in turn end it (one may be a disturbance).
public struct SwitchRule: Sendable {
  /// How many rounds in turn may leave no less than the best one before them.
  public static let stalledRoundCount = 2

  /// The limits.
  public let limits: SwitchLimits
  /// How many rounds have ended.
  public private(set) var roundCount: UInt64 = 0
  private var smallestRemaining: UInt64?
  private var roundsWithoutGain = 0

  /// Before the first round.
  public init(_ limits: SwitchLimits) { self.limits = limits }

  /// Judges after a round that was sent whole; nil means that another one follows.
  ///
  /// - Parameter elapsedNanoseconds: since the first page of the first round.
  public mutating func roundEnded(
    _ round: SeedRoundResult, elapsedNanoseconds: UInt64
  ) -> SwitchReason? {
    roundCount += 1
    noteGain(round.dirtiedByteCount)
    if fits(round) { return .fits }
    // Of a later round this would say the same as that it has left no less than the one before.
    if roundCount == 1, let dirtyRate = round.dirtyRate, let bandwidth = round.bandwidth,
      dirtyRate >= bandwidth
    {
      return .outrun
    }
    if roundsWithoutGain >= Self.stalledRoundCount { return .stalled }
    if roundCount >= limits.maximumRoundCount { return .rounds }
    return timeIsOver(elapsedNanoseconds) ? .time : nil
  }

  /// Whether `--max-time` is over: asked in the middle of a round, which then ends early.
  public func timeIsOver(_ elapsedNanoseconds: UInt64) -> Bool {
    limits.maximumNanoseconds.map { elapsedNanoseconds >= $0 } ?? false
  }

  private func fits(_ round: SeedRoundResult) -> Bool {
    if round.dirtiedByteCount == 0 { return true }
    guard let bandwidth = round.bandwidth, bandwidth > 0 else { return false }
    let forecast = Double(round.dirtiedByteCount) * 1e9 / bandwidth
    return forecast <= Double(limits.downtimeNanoseconds)
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
