internal import Migration
internal import Pages
internal import Synchronization
internal import System
internal import UFFD
internal import Wire

/// What the threads of a data plane share.
final class PlaneParts: Sendable {
  let installer: PageInstaller
  let userfault: UserfaultHandle
  let events: DataPlaneEvents
  let inbox: PlaneInbox
  let heartbeatBudgetNanoseconds: UInt64
  /// The VMM's pidfd, to notice its end.
  let processDescriptor: Int32?
  let urgentGate: FrameGate
  let bulkGate: FrameGate
  /// The session's short id.
  let session: UInt32
  /// Pages that a sweep keeps asked for at a time: a demand queues behind 256 KiB of small pages,
  /// or two huge ones.
  let sweepWindowPageCount: Int
  private let isUnregistered = Atomic<Bool>(false)
  private let shortestRoundTrip = Atomic<UInt64>(0)

  init(
    installer: PageInstaller, userfault: UserfaultHandle, events: DataPlaneEvents,
    inbox: PlaneInbox, heartbeatBudgetNanoseconds: UInt64, processDescriptor: Int32?,
    session: SessionID
  ) {
    self.installer = installer
    self.userfault = userfault
    self.events = events
    self.inbox = inbox
    self.heartbeatBudgetNanoseconds = heartbeatBudgetNanoseconds
    self.processDescriptor = processDescriptor
    self.session = session.shortID
    urgentGate = .session(
      from: .source, on: .urgent, session: session, layout: installer.layout)
    bulkGate = .session(from: .source, on: .bulk, session: session, layout: installer.layout)
    let hasHugePages = installer.layout.regions.contains { $0.pageSize == .huge }
    sweepWindowPageCount = hasHugePages ? 2 : 64
  }

  /// No seed comes any more.
  func endSeeds() {
    do throws(SeedFailure) { tell(try installer.endSeeds()) } catch { report(error) }
  }

  /// Says why a seed could not be dealt with.
  func report(_ failure: SeedFailure) {
    switch failure {
    case .stale(let errno): events.sayOnce(.staleInPlace, .staleInPlace(errno))
    case .userfault(let error): events.sayOnce(.userfaultFailed, .userfaultFailed(error))
    }
  }

  /// Tells the session how whole the image is.
  func tell(_ milestone: ImageMilestone?) {
    switch milestone {
    case nil: break
    case .allHere: events.sayOnce(.allHere, .allHere)
    case .allResident: events.sayOnce(.allResident, .allResident)
    }
  }

  /// Every connection of a link has brought everything: the search for what is missing begins.
  func notePushFinished() {
    events.sayOnce(.pushFinished, .pushFinished)
    inbox.post(.sweepMissing)
  }

  /// The shortest round trip of a heartbeat over all links; nil before the first.
  var roundTripNanoseconds: UInt64? {
    let nanoseconds = shortestRoundTrip.load(ordering: .relaxed)
    return nanoseconds == 0 ? nil : nanoseconds
  }

  /// For the fault thread alone.
  func noteRoundTrip(_ nanoseconds: UInt64?) {
    guard let nanoseconds else { return }
    shortestRoundTrip.store(
      min(roundTripNanoseconds ?? nanoseconds, nanoseconds), ordering: .relaxed)
  }

  /// Every region is unregistered.
  func noteUnregistered() { isUnregistered.store(true, ordering: .releasing) }
  var hasUnregistered: Bool { isUnregistered.load(ordering: .acquiring) }

  /// Says what a fill ran into; true when the fill is to be given up.
  func report(_ progress: FillProgress) -> Bool {
    tell(progress.milestone)
    // Before that, the search at the push's end finds them.
    if progress.hasLostSeeds, events.hasSaid(.pushFinished) { inbox.post(.sweepMissing) }
    guard let obstacle = progress.obstacle, obstacle != .retry else { return false }
    let entry = installer.map.entry(holding: progress.remaining.lowerBound)
    let start = PageIndex(progress.remaining.lowerBound - entry.firstFlatIndex)
    let run = PageRun(
      region: entry.region.index, start: start, count: PageCount(progress.remaining.count))
    switch obstacle {
    case .retry: break
    case .outOfMemory: events.sayOnce(.memoryPressure, .memoryPressure(run))
    case .gone: events.sayOnce(.vmmGone, .vmmGone)
    case .noMapping: events.sayOnce(.mappingLost, .mappingLost(run))
    case .noPoison:
      events.sayOnce(
        .poisonNotSupported,
        .poisonNotSupported(PageID(region: entry.region.index, page: start)))
    }
    return true
  }
}
