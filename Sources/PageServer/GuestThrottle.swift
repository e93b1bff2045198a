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
  private let told: @Sendable (String) -> Void
  private let state: Lock<State>

  private struct State {
    var rule: ThrottleRule
    var renewed = Instant(nanoseconds: 0)
    /// What the guest loses, as far as is known: nothing after an error.
    var appliedPercent = 0
    /// It may have lost something since it was let go last.
    var mayBeSlow = false
    var hasTold = false
  }

  /// A guest that may lose so much of its time, in percent. `told` hears, once, that it cannot be
  /// slowed down, and each time that it cannot be let go.
  init(
    _ chosen: ChosenThrottle, maximumPercent: Int,
    told: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    self.told = told
    throttle = chosen.throttle
    means = chosen.means
    state = Lock(State(rule: ThrottleRule(maximumPercent: maximumPercent)))
  }

  /// What the guest loses now, in percent: what was asked for and done.
  var percent: Int { state.withLock { $0.appliedPercent } }

  /// Whether the VMM itself may be slow, and is asked for nothing that can wait.
  var mayHoldVMM: Bool { throttle.slowsVMM && state.withLock { $0.mayBeSlow } }

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
    guard throttle.slowsVMM else { return }
    letGo { () throws(VMMError) in try throttle.releaseForPause() }
  }

  /// The guest gets all of its time again. What does not answer does that by itself.
  func release() {
    letGo { () throws(VMMError) in
      try throttle.throttle(percent: 0, forMilliseconds: Self.leaseMilliseconds)
    }
  }

  private func letGo(_ release: () throws(VMMError) -> Void) {
    guard state.withLock({ $0.mayBeSlow }) else { return }
    do throws(VMMError) {
      try release()
      state.withLock { state in
        state.mayBeSlow = false
        state.appliedPercent = 0
      }
    } catch {
      state.withLock { $0.appliedPercent = 0 }
      told("\(error)")
    }
  }

  private func ask() {
    let percent = state.withLock { state in
      state.mayBeSlow = true
      return state.rule.percent
    }
    var problem: VMMError?
    // A VMM that does not do it costs rounds; they come to an end by their limits.
    do throws(VMMError) {
      try throttle.throttle(percent: percent, forMilliseconds: Self.leaseMilliseconds)
    } catch { problem = error }
    let isNews = state.withLock { state in
      // Behind the call: one that was long in coming is not followed by the next at once.
      state.renewed = MonotonicClock.now()
      state.appliedPercent = problem == nil ? percent : 0
      guard problem != nil, !state.hasTold else { return false }
      state.hasTold = true
      return true
    }
    if isNews, let problem { told("\(problem)") }
  }
}
