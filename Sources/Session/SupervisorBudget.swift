public import Pages

/// How often a worker is restarted before its death counts as something that a restart does not
/// mend.
public struct RestartLimits: Hashable, Sendable {
  /// Restarts allowed within the window. 20: a host that kills a worker every few seconds is still
  /// served; one that cannot keep it for a second is given up within half a minute.
  public var maximumCount: Int
  /// How long a restart counts.
  public var windowNanoseconds: UInt64
  /// Between the first death in the window and its restart: nothing, since vCPUs wait meanwhile.
  /// Before the next one this long, then twice as long each time.
  public var firstPauseNanoseconds: UInt64
  /// The longest pause.
  public var longestPauseNanoseconds: UInt64

  /// The usual ones: 20 in a minute; 50 ms, 100 ms … 2 s.
  public init(
    maximumCount: Int = 20, windowNanoseconds: UInt64 = 60_000_000_000,
    firstPauseNanoseconds: UInt64 = 50_000_000, longestPauseNanoseconds: UInt64 = 2_000_000_000
  ) {
    self.maximumCount = maximumCount
    self.windowNanoseconds = windowNanoseconds
    self.firstPauseNanoseconds = firstPauseNanoseconds
    self.longestPauseNanoseconds = longestPauseNanoseconds
  }
}

/// Counts restarts and decides on the next one. Pure.
public struct RestartBudget: Sendable {
  /// The limits.
  public let limits: RestartLimits
  private var restarts: [Instant] = []

  /// Nothing was restarted yet.
  public init(limits: RestartLimits = RestartLimits()) { self.limits = limits }

  /// What to do about a worker that died at `now`.
  public enum Decision: Hashable, Sendable {
    /// Start the next one at that moment; it is the `count`th within the window.
    case restart(at: Instant, count: Int)
    /// No more: so many were restarted within the window.
    case giveUp(count: Int)
  }

  /// Decides, and counts the restart.
  public mutating func workerDied(now: Instant) -> Decision {
    restarts.removeAll { now.nanoseconds(since: $0) >= limits.windowNanoseconds }
    guard restarts.count < limits.maximumCount else { return .giveUp(count: restarts.count) }
    let pause = pauseNanoseconds(afterCount: restarts.count)
    let start = now.advanced(byNanoseconds: pause)
    restarts.append(start)
    return .restart(at: start, count: restarts.count)
  }

  private func pauseNanoseconds(afterCount count: Int) -> UInt64 {
    guard count > 0 else { return 0 }
    // 2^20 times any pause is above any longest one.
    let (pause, overflows) = limits.firstPauseNanoseconds.multipliedReportingOverflow(
      by: 1 << UInt64(min(count - 1, 20)))
    return overflows
      ? limits.longestPauseNanoseconds : min(pause, limits.longestPauseNanoseconds)
  }
}
