public import Pages

/// Why a guest that was paused for a lost link runs on.
public enum GuestResumeReason: String, CaseIterable, Hashable, Sendable {
  /// The source answers again.
  case linkRestored = "the link is there again"
  /// Nothing is missing any more: the guest needs no link.
  case complete = "every page is here"
}

/// Whether the guest stands still because its source cannot be reached: `--pause-after`. Pure.
///
/// It stands beside `DestinationCore` and never inside it. The core does not know of it and waits
/// for none of its answers, so no pause, answered or not, can hold recovery up or touch P1. It lets
/// run on only what it has paused itself, and only where the core has let it run before.
///
/// One thing is asked of the VMM at a time. A VMM with a vCPU that waits for a page may not answer
/// before the page comes; its answer to the pause is awaited before it is asked to resume.
public struct GuestPause: Sendable {
  /// What the guest is to the session now.
  public enum Standing: Hashable, Sendable {
    /// It was not let run yet, or is being ended: not ours to pause or to resume.
    case other
    /// It runs here with pages missing. The link is lost since that moment; nil: it is up.
    case dependent(lostAt: Instant?)
    /// Every page is here.
    case whole
  }

  /// What the VMM is to be asked.
  public enum Order: Hashable, Sendable {
    /// To pause the guest. First make durable for our own restarts that it was asked.
    case pause
    /// To let it run on.
    case resume(GuestResumeReason)
  }

  /// What came of an order.
  public enum Answer: Hashable, Sendable {
    /// The guest stands still; or its vCPUs wait for pages, and it will stand still with the last.
    case paused(isComplete: Bool)
    /// It is not paused by us: it does not run, or its VMM refused.
    case notPaused
    /// Nobody knows: it may stop yet. It is let run on later all the same.
    case unclear
    /// It runs on.
    case resumed
    /// It may stand still yet; asked again.
    case notResumed
  }

  /// How far a pause is.
  public enum State: Hashable, Sendable {
    /// Not paused by us.
    case none
    /// The VMM is being asked.
    case pausing
    /// By us, or perhaps.
    case paused(isComplete: Bool)
    /// The VMM is being asked.
    case resuming
  }

  /// Between two attempts to let the guest run on: they go on for as long as the session does,
  /// since nobody else would, and each has the VMM's own time limit.
  public static let retryNanoseconds: UInt64 = 1_000_000_000

  /// How far it is.
  public private(set) var state: State
  /// How often the guest was paused.
  public private(set) var pauseCount: UInt64 = 0
  /// How long it stood still in all, as far as this process has seen, up to the last resume.
  public private(set) var pausedNanoseconds: UInt64 = 0
  private let afterNanoseconds: UInt64?
  private var pausedAt: Instant?
  private var retryAt: Instant?
  /// The loss for which the question is settled: one attempt for each.
  private var settledLoss: Instant?

  /// - Parameters:
  ///   - afterNanoseconds: how long the link has to be lost; nil: never pauses.
  ///   - wasPaused: an earlier process of the session has asked for a pause that is not undone.
  public init(afterNanoseconds: UInt64?, wasPaused: Bool = false) {
    self.afterNanoseconds = afterNanoseconds
    state = wasPaused ? .paused(isComplete: false) : .none
  }

  /// Whether the guest may stand still on our account.
  public var owesResume: Bool { state != .none }

  /// Whether the guest certainly stands still: its VMM has told this process so, and was not asked
  /// since to let it run on. A pause that the VMM never acknowledged, or an earlier process's,
  /// which somebody may have undone, proves nothing.
  public var isCertain: Bool {
    guard case .paused = state else { return false }
    return pausedAt != nil && retryAt == nil
  }

  /// When `step` may have something to do next, unless the standing changes before.
  public func nextStep(_ standing: Standing) -> Instant? {
    switch state {
    case .none: dueTime(standing)
    case .paused: Self.resumeReason(standing) == nil ? nil : retryAt
    case .pausing, .resuming: nil
    }
  }

  /// What is to be asked of the VMM now. Call it whenever anything may have changed.
  public mutating func step(_ standing: Standing, now: Instant) -> Order? {
    switch state {
    case .none:
      guard let due = dueTime(standing), due <= now else { return nil }
      if case .dependent(let lostAt) = standing { settledLoss = lostAt }
      state = .pausing
      return .pause
    case .paused:
      guard let reason = Self.resumeReason(standing), retryAt.map({ $0 <= now }) ?? true else {
        return nil
      }
      state = .resuming
      return .resume(reason)
    case .pausing, .resuming: return nil
    }
  }

  /// The VMM, or whoever asks it, has answered the last order.
  public mutating func answered(_ answer: Answer, now: Instant) {
    switch (state, answer) {
    case (.pausing, .paused(let isComplete)):
      state = .paused(isComplete: isComplete)
      pauseCount += 1
      pausedAt = now
    case (.pausing, .notPaused): state = .none
    case (.pausing, .unclear): state = .paused(isComplete: false)
    case (.resuming, .resumed):
      state = .none
      if let pausedAt { pausedNanoseconds += now.nanoseconds(since: pausedAt) }
      pausedAt = nil
      retryAt = nil
    case (.resuming, .notResumed):
      state = .paused(isComplete: false)
      retryAt = now.advanced(byNanoseconds: Self.retryNanoseconds)
    case (.none, _), (.paused, _), (.pausing, _), (.resuming, _):
      invariantBroken("one order is answered once")
    }
  }

  /// How long the guest has stood still by now, in all.
  public func pausedNanoseconds(now: Instant) -> UInt64 {
    pausedNanoseconds + (pausedAt.map { now.nanoseconds(since: $0) } ?? 0)
  }

  /// When a guest that runs is to be paused.
  private func dueTime(_ standing: Standing) -> Instant? {
    guard case .dependent(let lostAt?) = standing, lostAt != settledLoss, let afterNanoseconds
    else { return nil }
    return lostAt.advanced(byNanoseconds: afterNanoseconds)
  }

  private static func resumeReason(_ standing: Standing) -> GuestResumeReason? {
    switch standing {
    case .dependent(lostAt: nil): .linkRestored
    case .whole: .complete
    case .dependent, .other: nil
    }
  }
}

extension DestinationState {
  /// What the guest is to the session in that state. `lostAt`: since when there is no link.
  public func guestStanding(lostAt: Instant?) -> GuestPause.Standing {
    switch self {
    case .running: .dependent(lostAt: lostAt)
    case .completing, .acknowledging: .whole
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .acceptingGo, .starting, .recordingRan, .rulingOut, .killing, .recordingAborted,
      .aborted, .finished:
      .other
    }
  }
}
