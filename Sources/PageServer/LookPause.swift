internal import Pages
internal import Session
internal import System
internal import VMM
internal import Wire

/// Has the VM stand still, its block I/O drained, while somebody looks at what it has written.
///
/// Only the rounds' thread uses `during`, and the session pauses the VM for the hand-over once the
/// rounds have returned: no two threads pause and resume it at a time. Whatever happens in between,
/// the VM is resumed before `during` ends, or `owesResume` says that it could not be. Should this
/// process die meanwhile, the mark tells the next one.
///
/// What a VMM was asked and has not answered it may still carry out, behind all that it is asked
/// later. Then no look is made any more, the VM is not handed over (`requireCertainty`), and the
/// mark stays until the VM has been seen to run for a while.
final class LookPause: Sendable {
  private struct State {
    var owesResume: Bool
    /// Since when the VM stands still by us.
    var start: Instant?
    var nanoseconds: UInt64 = 0
    var earliestLook: Instant?
    /// The first pause or resume that was not answered.
    var unanswered: VMMError?
    /// It may be paused by something that it was asked earlier.
    var isUnsettled: Bool
  }

  private let frontEnd: any VMMFrontEnd
  private let mark: PauseMark
  private let found: [PauseMark]
  private let directory: StateDirectory
  private let watchNanoseconds: UInt64
  private let state: Lock<State>

  /// `found` are the marks of earlier processes, whose pauses are ours to undo.
  init(
    _ frontEnd: any VMMFrontEnd, session: SessionID, found: [PauseMark] = [],
    in directory: StateDirectory, watchNanoseconds: UInt64 = LookPause.usualWatchNanoseconds
  ) {
    self.frontEnd = frontEnd
    self.found = found
    self.directory = directory
    self.watchNanoseconds = watchNanoseconds
    mark = PauseMark(ofLookIn: session, in: directory)
    state = Lock(State(owesResume: !found.isEmpty, isUnsettled: !found.isEmpty))
  }

  /// Whether a pause is of any use: it drains block I/O.
  var isPossible: Bool { frontEnd.pauseDrainsBlockIO }

  /// Whether the VM was paused by us, and is not known to run again.
  var owesResume: Bool { state.withLock(\.owesResume) }

  /// Before then no look should be made, so that the VM stands still for 1/20 of its time at most;
  /// nil before the first.
  var earliestLook: Instant? { state.withLock(\.earliestLook) }

  /// How long the VM has stood still by us since the last call.
  func takeNanoseconds() -> UInt64 {
    state.withLock { state in
      if let start = state.start {
        let now = MonotonicClock.now()
        state.nanoseconds += now.nanoseconds(since: start)
        state.start = now
      }
      defer { state.nanoseconds = 0 }
      return state.nanoseconds
    }
  }

  /// Looks while the VM stands still. One that somebody else has paused is left so.
  func during<Result>(_ look: () throws(VMMError) -> Result) throws(VMMError) -> Result {
    try requireCertainty()
    let isOurs = try standing() == .runs || owesResume
    if isOurs { try take() }
    let result: Swift.Result<Result, VMMError>
    do throws(VMMError) { result = .success(try whilePaused(look)) } catch {
      result = .failure(error)
    }
    // Also behind a pause that failed: it may come to a stop yet.
    if isOurs { try resume() }
    let found = try result.get()
    try requireCertainty()
    return found
  }

  private func whilePaused<Result>(
    _ look: () throws(VMMError) -> Result
  ) throws(VMMError) -> Result {
    do throws(VMMError) { try frontEnd.pause() } catch {
      heard(error)
      throw unfit("its block I/O could not be drained: \(error.problem.text)")
    }
    let result = try look()
    // Whoever let it run on has let it begin what the look did not see.
    guard try standing() == .stands else {
      throw unfit("somebody let it run while it was to stand still for a look")
    }
    return result
  }

  /// Lets the VM run on. Where it may be stopped by what was not answered, sees that it is not.
  func resume() throws(VMMError) {
    do throws(VMMError) { try resumeInsistently() } catch {
      // Not by our pause.
      if hasStoppedByItself { hasResumed() }
      throw error
    }
    if state.withLock(\.isUnsettled) { try watch() }
    hasResumed()
  }

  /// Throws when the VM may be paused or resumed behind our back, by what it was asked before: it
  /// must not be handed over then.
  func requireCertainty() throws(VMMError) {
    guard let unanswered = state.withLock(\.unanswered) else { return }
    throw unfit(
      "the VMM may yet \(unanswered.verb.rawValue) it, as it was asked to without an answer: "
        + unanswered.problem.text)
  }

  /// An earlier process may have left the VM paused, and it could not be resumed.
  func oweResume() {
    guard !hasStoppedByItself else { return }
    state.withLock { $0.owesResume = true }
  }

  /// The VM is known to run, or to stand still for a reason of its own.
  private func hasResumed() {
    endPause()
    state.withLock { state in
      state.owesResume = false
      state.isUnsettled = false
    }
    // A mark that stays has a VM resumed that runs: harmless.
    for mark in found + [mark] { try? mark.clear() }
  }

  private func endPause() {
    let now = MonotonicClock.now()
    state.withLock { state in
      guard let start = state.start.take() else { return }
      let nanoseconds = now.nanoseconds(since: start)
      state.nanoseconds += nanoseconds
      state.earliestLook = now.advanced(byNanoseconds: Self.restFactor * nanoseconds)
    }
  }

  private enum Standing { case runs, stands }

  private func standing() throws(VMMError) -> Standing {
    switch try frontEnd.status().state {
    case .running: .runs
    // Somebody's pause that is not complete yet, and a guest whose work is done, are drained by
    // ours and need nobody to resume them.
    case .paused, .pausing, .finished, .guestError, .incoming, .disabled, .none: .stands
    }
  }

  /// Whether it would not run by any resume. One that does not say may.
  private var hasStoppedByItself: Bool {
    switch (try? frontEnd.status())?.state {
    case .finished, .guestError, .disabled: true
    case .running, .paused, .pausing, .incoming, .none?, nil: false
    }
  }

  /// From here on a VM that stands still does so on our account.
  private func take() throws(VMMError) {
    do throws(StateError) {
      try directory.prepareLookPauses()
      do throws(SystemError) { try mark.set() } catch { throw .system(error) }
    } catch {
      throw unfit("a pause could not be noted: \(error)")
    }
    state.withLock { state in
      state.owesResume = true
      state.start = state.start ?? MonotonicClock.now()
    }
  }

  /// A VM that is not resumed is down: a VMM that is slow to answer is asked again.
  private func resumeInsistently() throws(VMMError) {
    var attemptCount = 1
    while true {
      do throws(VMMError) {
        try frontEnd.resume()
        return endPause()
      } catch {
        heard(error)
        if case .refused = error.problem, hasStoppedByItself { throw error }
        guard attemptCount < Self.attemptCount else { throw error }
      }
      attemptCount += 1
      Self.rest(Self.attemptRestNanoseconds)
    }
  }

  /// Sees the VM run for a while, and resumes it whenever it is found paused. Throws when that
  /// cannot be told.
  private func watch() throws(VMMError) {
    var start = MonotonicClock.now()
    var resumeCount = 0
    while true {
      switch try frontEnd.status().state {
      case .running:
        if MonotonicClock.now().nanoseconds(since: start) >= watchNanoseconds { return }
      case .paused, .pausing:
        guard resumeCount < Self.attemptCount else {
          throw unfit("it is paused again and again")
        }
        resumeCount += 1
        try resumeInsistently()
        start = MonotonicClock.now()
      case .finished, .guestError, .incoming, .disabled, .none: return
      }
      Self.rest(Self.watchRestNanoseconds)
    }
  }

  private func heard(_ error: VMMError) {
    guard !error.isAnswer else { return }
    state.withLock { state in
      state.unanswered = state.unanswered ?? error
      state.isUnsettled = true
    }
  }

  /// Nothing is waited for but the time; should poll fail, what follows comes sooner.
  private static func rest(_ nanoseconds: UInt64) {
    _ = try? Readiness.wait(
      for: [], until: MonotonicClock.now().advanced(byNanoseconds: nanoseconds))
  }

  private func unfit(_ reason: String) -> VMMError {
    VMMError(
      vmName: frontEnd.vmName, verb: .fetchDirtyLog, address: "paused for a look",
      problem: .failed(reason))
  }

  /// A VMM that comes to life again reads what waits for it within moments; this is longer than the
  /// limit of any one answer.
  static let usualWatchNanoseconds: UInt64 = 5_000_000_000
  private static let watchRestNanoseconds: UInt64 = 50_000_000
  /// Each attempt has the front end's own limit of seconds; a VMM that answers none of these is
  /// gone or stuck.
  private static let attemptCount = 5
  private static let attemptRestNanoseconds: UInt64 = 500_000_000
  /// How many times as long as it stood still a VM runs before the next look.
  private static let restFactor: UInt64 = 20
}
