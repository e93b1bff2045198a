public import Pages

/// A core's timers as its edge keeps them: each at most once, a handful in all.
public struct TimerSet<Timer: CaseIterable & Hashable & Sendable>: Sendable {
  private var deadlines: [(timer: Timer, deadline: Instant)] = []

  /// No timer is set.
  public init() { deadlines.reserveCapacity(Timer.allCases.count) }

  /// Arms the timer, replacing an earlier setting.
  public mutating func set(_ timer: Timer, at deadline: Instant) {
    cancel(timer)
    deadlines.append((timer, deadline))
  }

  /// Disarms the timer; harmless when it is not set.
  public mutating func cancel(_ timer: Timer) { deadlines.removeAll { $0.timer == timer } }

  /// When the next timer runs out; nil when none is set.
  public var next: Instant? { deadlines.map(\.deadline).min() }

  /// Takes the timer that ran out first, if one has by `now`.
  public mutating func takeDue(now: Instant) -> Timer? {
    guard
      let first = deadlines.min(by: { $0.deadline < $1.deadline }), first.deadline <= now
    else { return nil }
    cancel(first.timer)
    return first.timer
  }
}
