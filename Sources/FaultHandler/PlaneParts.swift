internal import Migration
internal import Pages
internal import Synchronization
internal import System
internal import UFFD
internal import Uring
internal import Wire

/// What the threads of a data plane share.
final class PlaneParts: Sendable {
  let installer: PageInstaller
  let userfault: UserfaultHandle
  let events: DataPlaneEvents
  let inbox: PlaneInbox
  let urgent: Connection
  /// The VMM's pidfd, to notice its end.
  let processDescriptor: Int32?
  let urgentGate: FrameGate
  let bulkGate: FrameGate
  /// The session's short id.
  let session: UInt32
  /// Pages that a sweep keeps asked for at a time: a demand queues behind 256 KiB of small pages,
  /// or two huge ones.
  let sweepWindowPageCount: Int
  private let unfinishedPushCount: Atomic<Int>
  private let isUnregistered = Atomic<Bool>(false)

  init(
    installer: PageInstaller, userfault: UserfaultHandle, events: DataPlaneEvents,
    inbox: PlaneInbox, urgent: Connection, bulkCount: Int, processDescriptor: Int32?,
    session: SessionID
  ) {
    self.installer = installer
    self.userfault = userfault
    self.events = events
    self.inbox = inbox
    self.urgent = urgent
    self.processDescriptor = processDescriptor
    self.session = session.shortID
    urgentGate = .session(
      from: .source, on: .urgent, session: session, layout: installer.layout)
    bulkGate = .session(from: .source, on: .bulk, session: session, layout: installer.layout)
    let hasHugePages = installer.layout.regions.contains { $0.pageSize == .huge }
    sweepWindowPageCount = hasHugePages ? 2 : 64
    unfinishedPushCount = Atomic(bulkCount)
  }

  /// One connection has brought everything. The last one starts the search for what is missing.
  func notePushFinished() {
    guard unfinishedPushCount.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 else {
      return
    }
    events.sayOnce(.pushFinished, .pushFinished)
    inbox.post(.sweepMissing)
  }

  /// Every region is unregistered.
  func noteUnregistered() { isUnregistered.store(true, ordering: .releasing) }
  var hasUnregistered: Bool { isUnregistered.load(ordering: .acquiring) }

  /// Says what a fill ran into; true when the fill is to be given up.
  func report(_ progress: FillProgress) -> Bool {
    if progress.completesImage { events.sayOnce(.allResident, .allResident) }
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

  /// What the end of a ring's operation on the urgent connection means.
  func urgentError(_ operation: StaticOperation, result: Int32) -> ConnectionError {
    do throws(ConnectionError) {
      _ = try urgent.byteCount(ofCompletion: result, operation)
      invariantBroken("an operation that ended the link has no bytes")
    } catch {
      return error
    }
  }
}
