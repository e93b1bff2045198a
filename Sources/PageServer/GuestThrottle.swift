internal import Migration
internal import Pages
internal import System
internal import VMM

/// Slows a guest down while its rounds do not come to fit, and lets it go in the end. For one
/// thread at a time, that of the rounds.
final class GuestThrottle: Sendable {
  /// So long a guest is slow whose migration has died: it has to be asked for again in time.
  static let leaseMilliseconds: UInt64 = 5000
  /// Asked for again after so long: a VMM that is slow to answer is in time still.
  private static let renewalNanoseconds: UInt64 = 1_000_000_000

  /// By what the guest is slowed down.
  let means: ThrottleMeans
  private let throttle: any ProcessorThrottle
  private let state: Lock<State>

  private struct State {
    var rule: ThrottleRule
    var renewed = Instant(nanoseconds: 0)
  }

  /// A guest that may lose so much of its time, in percent.
  init(_ chosen: ChosenThrottle, maximumPercent: Int) {
    throttle = chosen.throttle
    means = chosen.means
    state = Lock(State(rule: ThrottleRule(maximumPercent: maximumPercent)))
  }

  /// What the guest loses now, in percent.
  var percent: Int { state.withLock { $0.rule.percent } }

  /// A round has ended, and another one follows.
  func roundEnded(_ result: SeedRoundResult) {
    let hasChanged = state.withLock { state in
      let before = state.rule.percent
      return state.rule.roundEnded(result) != before
    }
    if hasChanged { ask() }
  }

  /// Asks again if it is time.
  func renew(_ now: Instant) {
    let isDue = state.withLock { state in
      state.rule.percent > 0
        && now.nanoseconds(since: state.renewed) >= Self.renewalNanoseconds
    }
    if isDue { ask() }
  }

  /// The VMM is about to be asked to pause: it must not be slow in that. Rounds that go on over a
  /// new link ask again.
  func pauseComes() {
    if throttle.slowsVMM { release() }
  }

  /// The guest gets all of its time again. What does not answer does that by itself.
  func release() {
    guard percent > 0 else { return }
    try? throttle.throttle(percent: 0, forMilliseconds: Self.leaseMilliseconds)
  }

  private func ask() {
    let percent = state.withLock { state in
      state.renewed = MonotonicClock.now()
      return state.rule.percent
    }
    // A VMM that does not do it costs rounds; they come to an end by their limits.
    try? throttle.throttle(percent: percent, forMilliseconds: Self.leaseMilliseconds)
  }
}
