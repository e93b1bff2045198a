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
final class LookPause: Sendable {
  private struct State {
    var owesResume = false
    var nanoseconds: UInt64 = 0
  }

  private let frontEnd: any VMMFrontEnd
  private let mark: PauseMark
  private let directory: StateDirectory
  private let state = Lock(State())

  init(_ frontEnd: any VMMFrontEnd, session: SessionID, in directory: StateDirectory) {
    self.frontEnd = frontEnd
    self.directory = directory
    mark = PauseMark(ofLookIn: session, in: directory)
  }

  /// Whether a pause is of any use: it drains block I/O.
  var isPossible: Bool { frontEnd.pauseDrainsBlockIO }

  /// Whether the VM was paused by us and could not be resumed.
  var owesResume: Bool { state.withLock(\.owesResume) }

  /// How long the VM has stood still by us since the last call.
  func takeNanoseconds() -> UInt64 {
    state.withLock { state in
      defer { state.nanoseconds = 0 }
      return state.nanoseconds
    }
  }

  /// Looks while the VM stands still. One that somebody else has paused is left so.
  func during<Result>(_ look: () throws(VMMError) -> Result) throws(VMMError) -> Result {
    let isOurs = try standing() == .runs || owesResume
    if isOurs { try take() }
    let start = MonotonicClock.now()
    let found: Swift.Result<Result, VMMError>
    do throws(VMMError) {
      do throws(VMMError) { try frontEnd.pause() } catch {
        throw unfit("its block I/O could not be drained: \(error.problem.text)")
      }
      let result = try look()
      // Whoever let it run on has let it begin what the look did not see.
      guard try standing() == .stands else {
        throw unfit("somebody let it run while it was to stand still for a look")
      }
      found = .success(result)
    } catch { found = .failure(error) }
    if isOurs {
      // Also behind a pause that failed: it may come to a stop yet.
      try frontEnd.resumeInsistently()
      hasResumed()
      let nanoseconds = MonotonicClock.now().nanoseconds(since: start)
      state.withLock { $0.nanoseconds += nanoseconds }
    }
    return try found.get()
  }

  /// The VM runs, whoever has seen to it.
  func hasResumed() {
    state.withLock { $0.owesResume = false }
    // A mark that stays has a VM resumed that runs: harmless.
    try? mark.clear()
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

  /// From here on a VM that stands still does so on our account.
  private func take() throws(VMMError) {
    do throws(StateError) {
      try directory.prepareLookPauses()
      do throws(SystemError) { try mark.set() } catch { throw .system(error) }
    } catch {
      throw unfit("a pause could not be noted: \(error)")
    }
    state.withLock { $0.owesResume = true }
  }

  private func unfit(_ reason: String) -> VMMError {
    VMMError(
      vmName: frontEnd.vmName, verb: .fetchDirtyLog, address: "paused for a look",
      problem: .failed(reason))
  }
}

extension VMMFrontEnd {
  /// A VM that is not resumed is down: a VMM that is slow to answer is asked again.
  func resumeInsistently() throws(VMMError) {
    for _ in 1..<resumeAttemptCount {
      do throws(VMMError) { return try resume() } catch {
        // Nothing is waited for but the time; should poll fail, the next attempt comes sooner.
        _ = try? Readiness.wait(
          for: [], until: MonotonicClock.now().advanced(byNanoseconds: resumeRestNanoseconds))
      }
    }
    try resume()
  }
}

/// Each attempt has the front end's own limit of seconds; a VMM that answers none of these is gone
/// or stuck.
private let resumeAttemptCount = 5
private let resumeRestNanoseconds: UInt64 = 500_000_000
