internal import Migration
internal import Pages
internal import System
internal import UFFD

extension PageInstaller {
  /// Reads one buffer of messages, marks what they change and decides each fault; the batch, which
  /// is emptied first, gets what is left to do. Answers how many messages there were.
  func readMessages(
    into buffer: inout UserfaultMessageBuffer, batch: inout FaultBatch
  ) throws(UFFDError) -> Int {
    batch.removeAll()
    return try filling.withLock { filling throws(UFFDError) in
      let count = try userfault.read(into: &buffer)
      guard count > 0 else { return 0 }
      // Changes first: a fault that was queued before a REMOVE of its page is then answered with
      // zeros at once, not with a request whose answer would be void.
      for position in 0..<count { try mark(position, in: &buffer, &batch, &filling) }
      let now = MonotonicClock.now()
      for position in 0..<count {
        if case .fault(let fault) = buffer[position] { decide(fault, now, &batch, &filling) }
      }
      batch.milestone = filling.nextMilestone()
      return count
    }
  }

  private func mark(
    _ position: Int, in buffer: inout UserfaultMessageBuffer, _ batch: inout FaultBatch,
    _ filling: inout Filling
  ) throws(UFFDError) {
    switch buffer[position] {
    case .fault: break
    case .remove(let range):
      for entry in map.entries where entry.range.overlaps(range) {
        let pages = entry.pages(inside: range)
        let outcome = filling.ledger.removed(pages, from: entry.kind)
        filling.statistics.removedPageCount += UInt64(outcome.removedCount)
        if outcome.waiterCount > 0 { try userfault.wake(entry.hostRange(pages)) }
      }
    case .unmap(let range):
      // What is not mapped any more is not needed any more, whatever kind of memory it was. Its
      // waiters fail by themselves.
      for entry in map.entries where entry.range.overlaps(range) {
        let pages = entry.pages(inside: range)
        let outcome = filling.ledger.removed(pages, from: .privateAnonymous)
        filling.statistics.removedPageCount += UInt64(outcome.removedCount)
      }
      batch.append(change: .unmap(range))
    case .fork:
      // Never closed: the child would read zeros for every page that is missing.
      if let child = try buffer.takeForkedDescriptor(at: position) {
        batch.children.append(child.release())
      }
      batch.append(change: .fork)
    case .remap(let source, let target):
      batch.append(change: .remap(source: source, target: target))
    case .unknown(let kind):
      batch.append(change: .unknown(kind: kind))
    }
  }

  private func decide(
    _ fault: PageFault, _ now: Instant, _ batch: inout FaultBatch, _ filling: inout Filling
  ) {
    filling.statistics.faultCount += 1
    guard let page = map.flatIndex(at: fault.address, hint: &batch.regionHint) else {
      batch.append(outside: fault.address)
      return
    }
    switch filling.ledger.fault(at: page) {
    case .request:
      filling.statistics.demandCount += 1
      if !filling.demands.insert(page, at: now) { filling.statistics.untimedDemandCount += 1 }
      batch.append(request: page)
    case .alreadyRequested:
      filling.statistics.repeatedFaultCount += 1
      // One that a sweep asked for is timed from now on.
      filling.demands.insert(page, at: now)
    case .refillOrWake:
      filling.statistics.repeatedFaultCount += 1
      batch.append(fill: page)
    case .zeroFill, .poison, .stageFill:
      batch.append(fill: page)
    }
  }
}
