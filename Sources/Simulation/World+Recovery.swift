internal import Migration

/// What the destination says on a link that was made again: the faults first, then what is here.
extension World {
  mutating func request(_ page: Int) {
    if hosts[1].connection != nil { requestedOnLink[page] = true }
    send(.request(page), from: .destination)
  }

  /// Asks again for every page that somebody waits for; an answer may have been lost with its link.
  mutating func requestAgain() {
    guard let ledger, hosts[1].connection != nil, mutation != .pendingFaultNotResent else {
      return
    }
    var start = 0
    while let run = ledger.nextRequestedRun(in: start..<plan.pageCount) {
      for page in run { request(page) }
      start = run.upperBound
    }
  }

  /// Its bulk connection is up: the resident map goes out, frame by frame.
  mutating func bulkJoins(_ connection: Int, life: Int) {
    guard isCurrent(.destination, life), hosts[1].connection == connection, isMapDue else {
      return
    }
    checkRequestedAgain()
    hosts[1].isBulkUp = true
    isMapDue = false
    sendMap(from: 0, connection, life: life)
  }

  /// One frame; what its pages are is looked up when it leaves. The link may break before the next.
  mutating func sendMap(from start: Int, _ connection: Int, life: Int) {
    guard isCurrent(.destination, life), hosts[1].connection == connection else { return }
    let end = min(start + Self.mapFramePageCount, plan.pageCount)
    send(
      .residentMap(start: start, isResident: (start..<end).map(isResident)), from: .destination)
    if end == plan.pageCount, hosts[1].connection == connection { mappedConnection = connection }
    if isTroubled(.crash) { return crash(.destination) }
    if isTroubled(.relapse) {
      schedule(.trouble(.linkBreaks(connection: connection)), within: 1_000..<100_000)
    }
    if end < plan.pageCount {
      schedule(
        .mapGoesOn(start: end, connection: connection, life: life), within: 1_000..<60_000)
    }
  }

  /// What the page-state file says; a restarted worker that has COMPLETE no longer opens it.
  private func isResident(_ page: Int) -> Bool {
    if let ledger { return !ledger[page].isAwaited }
    return recordedStates.flatMap { PageState(rawValue: $0[page]) }?.isSettled == true
  }

  /// P6: the map must not overtake the faults that wait for their answer.
  private mutating func checkRequestedAgain() {
    guard let ledger else { return }
    for vcpu in vcpus where !vcpu.isQueueing {
      guard let page = vcpu.pendingPage, ledger[page] == .requested, !requestedOnLink[page]
      else { continue }
      violate("P6", "a vCPU waits for page \(page), which was not asked for on the new link")
    }
  }
}
