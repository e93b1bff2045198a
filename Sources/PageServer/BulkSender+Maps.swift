internal import Codec
internal import Pages
internal import System
internal import Wire

// What the first bulk connection carries beside pages: stale seeds, absent memory, device state.
extension BulkSender {
  /// Names the last stale seeds, all of them; false when there are none.
  func sendLastDiscards() throws(ServeError) -> Bool {
    guard let stale = context.discards.withLock({ $0.take() }) else { return false }
    try sendDiscards(stale, areLast: true)
    return true
  }

  /// Names stale seeds, of at least one page; behind the last ones comes no seed.
  func sendDiscards(_ stale: PageBitmap, areLast: Bool) throws(ServeError) {
    var runs: [PageRun] = []
    var left = stale.setCount
    for region in context.layout.regions {
      let first = context.layout.flatIndex(
        of: PageID(region: region.index, page: PageIndex(rawValue: 0)))
      let end = first + Int(region.pageCount.rawValue)
      var flat = first
      while let run = stale.nextRun(from: flat, before: end, limit: end - first) {
        runs.append(
          PageRun(
            region: region.index, start: PageIndex(run.lowerBound - first),
            count: PageCount(run.count)))
        flat = run.upperBound
        left -= run.count
        guard runs.count == WireLimits.maximumZeroMapRunCount || left == 0 else { continue }
        let frame = RunMap.discard.encodedFrame(
          runs[...], isLast: areLast && left == 0, session: context.session.shortID)
        try transmit(frame.rawBytes)
        runs.removeAll(keepingCapacity: true)
      }
    }
  }

  /// Searches a while and sends what was found; false when the map is done.
  mutating func sendMapStep() throws(ServeError) -> Bool {
    guard var map = absentMap.take() else { return false }
    let isOpen: Bool
    do throws(MemoryError) {
      isOpen = try servingGate.withState { (state) throws(MemoryError) in
        if state == .open { try map.step(context.backing) }
        return state == .open
      }
    } catch {
      throw .memory(error)
    }
    guard isOpen else { return false }
    while !map.runs.isEmpty {
      let runs = map.takeFrame()
      for run in runs {
        let claimed = context.claims.claim(context.layout.flatRange(of: run))
        context.counters.toldAbsent(pageCount: claimed)
        context.counters.claimed(pageCount: claimed)
      }
      try transmit(RunMap.zero.encodedFrame(runs[...], session: context.session.shortID).rawBytes)
    }
    if !map.isFinished { absentMap = map }
    return true
  }

  func sendDeviceState() throws(ServeError) -> Bool {
    guard let state = context.deviceState.withLock({ $0.take() }) else { return false }
    var start = 0
    repeat {
      let end = min(start + WireLimits.maximumControlPayloadByteCount, state.count)
      let piece = state.span.extracting(start..<end)
      let payload = RawSpan(_elements: piece)
      var frame: [UInt8] = []
      FrameHeader.payload(
        .deviceState, isLast: end == state.count, session: context.session.shortID, payload
      ).appendEncoded(to: &frame)
      try transmit(frame.rawBytes, hasMore: end > start)
      if end > start { try transmit(payload) }
      start = end
    } while start < state.count
    return true
  }
}
