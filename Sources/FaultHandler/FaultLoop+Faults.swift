internal import Pages
internal import System
internal import UFFD
internal import Uring
internal import Wire

extension FaultLoop {
  /// Reads what waits, asks for what is missing, and answers what needs no source.
  mutating func readFaults() throws(RingError) {
    _ = readBatch()
    try fillPending()
  }

  /// Does the fills that were read, by whom ever: a fill that met an event has read them too, and
  /// then no poll tells of them any more.
  mutating func fillPending() throws(RingError) {
    guard answersFaults, !pendingFills.isEmpty else { return }
    // Requests first: their answers travel while the fills are done.
    try flush()
    while let page = pendingFills.popLast() { resolve(page) }
  }

  /// Hands the requests so far to the kernel without waiting.
  private mutating func flush() throws(RingError) {
    guard isLinkUp, !outbox.isEmpty else { return }
    try queueSend()
    try ring.submitAndWait(for: 0)
  }

  /// Reads one buffer of messages: requests go to the outbox, fills to `pendingFills`. Answers how
  /// many messages there were.
  @discardableResult
  private mutating func readBatch() -> Int {
    do throws(UFFDError) {
      let count = try plane.installer.readMessages(into: &messages, batch: &batch)
      guard count > 0 else { return 0 }
      plane.tell(batch.milestone)
      for position in batch.requests.indices { request(batch.requests[position]) }
      for position in batch.fills.indices {
        let page = batch.fills[position]
        if pendingFills.count < Self.maximumPendingFillCount {
          pendingFills.append(page)
        } else {
          try plane.installer.wake(page)
        }
      }
      for position in batch.outside.indices {
        plane.events.sayAFewTimes(
          .faultOutsideRegions, .faultOutsideRegions(batch.outside[position]))
      }
      for position in batch.changes.indices {
        let change = batch.changes[position]
        plane.events.sayAFewTimes(.init(change: change), .addressSpaceChanged(change))
      }
      return count
    } catch {
      plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
      return 0
    }
  }

  private mutating func request(_ page: Int) {
    let entry = plane.installer.map.entry(holding: page)
    request(
      PageRun(
        PageID(region: entry.region.index, page: PageIndex(page - entry.firstFlatIndex))))
  }

  private mutating func request(_ run: PageRun) {
    guard isLinkUp, outbox.hasRoomForRequests else {
      hasUnsentRequests = true
      return
    }
    requestSequence &+= 1
    let header = FrameHeader.request(run, session: plane.session, sequence: requestSequence)
    outbox.append(header, to: &ring)
  }

  /// Answers a fault that needs no source.
  private mutating func resolve(_ page: Int) {
    var remaining = page..<page + 1
    var backoff = Backoff()
    repeat {
      do throws(UFFDError) {
        let progress = try plane.installer.resolve(remaining.lowerBound)
        guard goOn(progress, &remaining, &backoff) else { return }
      } catch {
        plane.events.sayOnce(.userfaultFailed, .userfaultFailed(error))
        return
      }
    } while true
  }

  /// Judges one step of a fill; true when another step is due.
  mutating func goOn(
    _ progress: FillProgress, _ remaining: inout Range<Int>, _ backoff: inout Backoff
  ) -> Bool {
    remaining = progress.remaining
    if plane.report(progress) { return false }
    guard progress.obstacle == .retry else { return !remaining.isEmpty }
    // The event that is in the way is for us to read; its thread needs a moment to get past it.
    // Nobody may spin here, and nobody may hold the fill lock meanwhile.
    while readBatch() > 0 {}
    backoff.pause()
    return !plane.inbox.isEnding
  }

  // MARK: Sweeps

  /// Takes a few steps of whatever is to be asked for again, or at last.
  mutating func advanceSweeps() {
    guard isLinkUp else { return }
    if hasUnsentRequests, outbox.isEmpty {
      hasUnsentRequests = false
      repeatPosition = 0
    }
    if let position = repeatPosition {
      repeatPosition = sweep(.requested, from: position)
    } else if let position = sweepPosition,
      plane.installer.requestedPageCount < plane.sweepWindowPageCount
    {
      sweepPosition = sweep(.missing, from: position)
    }
  }

  /// One step; nil at the end of the image.
  private mutating func sweep(_ target: PageInstaller.SweepTarget, from start: Int) -> Int? {
    var position = start
    guard outbox.hasRoomForRequests else { return position }
    if let run = plane.installer.nextRun(target, from: &position) { request(run) }
    return position < Int(plane.installer.layout.totalPageCount.rawValue) ? position : nil
  }
}
