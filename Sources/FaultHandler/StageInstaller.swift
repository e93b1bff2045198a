internal import Pages
internal import System
internal import UFFD

/// What the stage's thread does: it installs what was seeded, from the front to the back, while the
/// fault thread installs what somebody waits for. Each step holds the fill lock for one fill.
struct StageInstaller {
  let plane: PlaneParts
  /// Signalled when it may begin, and when the plane ends.
  let go: WakeEvent

  /// Runs, once it may, until nothing is staged any more, or the plane ends.
  func run() {
    // Should the kernel fail the wait, it begins early, which costs the guest a moment.
    _ = try? Readiness.wait(for: [go.rawValue], until: nil)
    var remaining = 0..<Int(plane.installer.layout.totalPageCount.rawValue)
    var backoff = Backoff()
    while !remaining.isEmpty, !plane.inbox.isEnding {
      do throws(UFFDError) {
        let progress = try plane.installer.installStaged(remaining)
        remaining = progress.remaining
        let isGivenUp = plane.report(progress)
        switch progress.obstacle {
        case nil: backoff = Backoff()
        // The fault thread reads the event that is in the way; memory may come back.
        case .retry, .outOfMemory: backoff.pause()
        case .gone, .noMapping, .noPoison: if isGivenUp { return }
        }
      } catch {
        return plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
      }
    }
    if remaining.isEmpty { plane.installer.clearStage() }
  }
}
