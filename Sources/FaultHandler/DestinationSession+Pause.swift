internal import Migration
internal import Pages
internal import Session
internal import System
internal import VMM
internal import Wire

/// How a guest was paused for lost links, in one process's sight.
public struct GuestPauseTally: Hashable, Sendable {
  /// How often.
  public var count: UInt64
  /// For how long in all; what an earlier process saw is not known.
  public var totalNanoseconds: UInt64
  /// Whether it may stand still now: the next recovery lets it run on.
  public var isPaused: Bool
}

// `--pause-after`: what `GuestPause` decides, asked of the VMM on a thread of its own. Nothing here
// waits for an answer while the session goes on.
extension DestinationSession {
  private var guestStanding: GuestPause.Standing {
    // Before the first link, and behind a final loss, there is nothing to be restored.
    core.state.guestStanding(lostAt: isLinkUp ? nil : linkLostAt ?? started)
  }

  /// When the pause has to be looked at again, at the latest.
  var nextPauseStep: Instant? { guestPause.nextStep(guestStanding) }

  /// Asks the VMM for what is due. Called after everything that can change it.
  func stepPause(_ now: Instant) {
    switch guestPause.step(guestStanding, now: now) {
    case .pause: orderPause()
    case .resume(let reason): orderResume(reason)
    case nil: break
    }
  }

  private func orderPause() {
    guard configuration.frontEnd.pausesBesideFaults || !hasWaiters else {
      return pauseAnswered(
        .notPaused, "a vCPU waits for a page, and its VMM would not answer before that comes")
    }
    do throws(SystemError) {
      try PauseMark(of: core.session, in: configuration.directory).set()
    } catch {
      return pauseAnswered(.notPaused, "nobody could be told of it after a restart: \(error)")
    }
    let frontEnd = configuration.frontEnd
    onPause { Self.pause(frontEnd) }
  }

  private func orderResume(_ reason: GuestResumeReason) {
    pauseReason = reason
    let frontEnd = configuration.frontEnd
    onPause { Self.resume(frontEnd) }
  }

  /// Whether somebody waits for a page that was asked for.
  private var hasWaiters: Bool {
    guard let states = plane?.statistics().pageCountByState,
      states.indices.contains(Int(PageState.requested.rawValue))
    else { return true }
    return states[Int(PageState.requested.rawValue)] > 0
  }

  private func onPause(
    _ command: @escaping @Sendable () -> (answer: GuestPause.Answer, told: String?)
  ) {
    let inputs = inputs
    let isTaken = pauseWorker.run {
      let (answer, told) = command()
      DestinationSession.tell(.pauseAnswered(answer, told: told), inputs)
    }
    invariant(isTaken, "one thing is asked at a time")
  }

  /// A VM that somebody else has paused, or that has ended, is left alone: we would let it run on.
  private static func pause(_ frontEnd: any VMMFrontEnd) -> (GuestPause.Answer, String?) {
    do throws(VMMError) {
      let state = try frontEnd.status().state
      guard state == .running else { return (.notPaused, "it is \(state.rawValue) already") }
    } catch { return (.notPaused, "\(error)") }
    do throws(VMMError) {
      try frontEnd.pause()
      return (.paused(isComplete: true), nil)
    } catch {
      if case .pending = error.problem { return (.paused(isComplete: false), nil) }
      return (error.isCertainlyWithoutEffect ? .notPaused : .unclear, "\(error)")
    }
  }

  private static func resume(_ frontEnd: any VMMFrontEnd) -> (GuestPause.Answer, String?) {
    do throws(VMMError) {
      try frontEnd.resume()
      return (.resumed, nil)
    } catch { return (.notResumed, "\(error)") }
  }

  /// What came of the last order, and what else there is to say.
  func pauseAnswered(_ answer: GuestPause.Answer, _ told: String?) {
    let now = MonotonicClock.now()
    let pausedBefore = guestPause.pausedNanoseconds
    guestPause.answered(answer, now: now)
    switch answer {
    case .paused(let isComplete): observer(.guestPaused(isComplete: isComplete))
    case .notPaused:
      clearPauseMark()
      observer(.warning("the guest is not paused while the link is lost: \(told ?? "")"))
    case .unclear:
      observer(
        .warning("the guest may or may not be paused while the link is lost: \(told ?? "")"))
    case .resumed:
      clearPauseMark()
      observer(
        .guestResumed(
          pauseReason, pausedNanoseconds: guestPause.pausedNanoseconds - pausedBefore))
    case .notResumed:
      observer(.warning("the guest could not be resumed yet, it is tried again: \(told ?? "")"))
    }
  }

  /// A mark that stays costs a resume of a guest that runs: nothing.
  private func clearPauseMark() {
    try? PauseMark(of: core.session, in: configuration.directory).clear()
  }

  /// The last word on the pause; every order has been answered by now. A guest that is whole has
  /// nobody else to let it run on; a parked one stays as it is, for the next recovery.
  func endPause(_ outcome: inout Outcome) -> GuestPauseTally? {
    guard guestPause.pauseCount > 0 || guestPause.owesResume else { return nil }
    var tally = GuestPauseTally(
      count: guestPause.pauseCount, totalNanoseconds: pauseLength,
      isPaused: guestPause.owesResume)
    guard tally.isPaused else { return tally }
    switch outcome.ending {
    case .completed:
      let (answer, told) = Self.resume(configuration.frontEnd)
      tally.isPaused = answer != .resumed
      observer(
        tally.isPaused
          ? .warning("every page is here and the VM may be paused, resume it: \(told ?? "")")
          : .guestResumed(.complete, pausedNanoseconds: pauseLength))
    case .parked:
      if outcome.destination == .runs {
        outcome.destination = guestPause.isCertain ? .stopped : .mayRun
      }
    case .aborted, .refused: break
    }
    return tally
  }

  private var pauseLength: UInt64 { guestPause.pausedNanoseconds(now: MonotonicClock.now()) }
}
