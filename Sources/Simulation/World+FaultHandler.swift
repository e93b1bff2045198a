internal import Migration

/// The destination's fault handler and installers over the page ledger. Each step below is one
/// critical section under the fill lock: read + mark, or check + fill + mark.
extension World {
  mutating func scheduleHandler() {
    guard ledger != nil, !isHandlerScheduled else { return }
    isHandlerScheduled = true
    schedule(.handlerReads(life: destinationLife), within: 2_000..<30_000)
  }

  /// Reads everything: pending faults come before queued events, whatever came first.
  mutating func handlerReads(life: Int) {
    guard isCurrent(.destination, life), ledger != nil else { return }
    isHandlerScheduled = false
    let faults = memory.unreadFaults
    memory.unreadFaults = []
    var parked: [Int] = []
    for page in faults where !answer(page) { parked.append(page) }
    for (range, vcpu) in memory.unreadRemovals {
      let outcome = ledger?.removed(range, from: plan.memory)
      if let outcome, outcome.waiterCount > 0 {
        for page in range { memory.wake(page) }
      }
      schedule(.zap(vcpu: vcpu), within: 1_000..<60_000)
    }
    memory.unreadRemovals = []
    for page in parked where !answer(page) {
      violate("P6", "a fill says EAGAIN although every event was read")
    }
    releaseWoken()
    checkWaiters()
    checkResident()
  }

  /// P6: nobody may wait for a page that is there, once its fault was read and every wake given.
  /// That the end of the session wakes everybody is no excuse.
  private mutating func checkWaiters() {
    for vcpu in vcpus where !vcpu.isQueueing && !vcpu.isScheduled {
      guard let page = vcpu.pendingPage, memory.versions[page] != nil,
        !memory.unreadFaults.contains(page)
      else { continue }
      violate("P6", "the waiter of page \(page), which is there, was not woken")
    }
  }

  /// Answers one fault. False when a fill must wait until the events are read.
  private mutating func answer(_ page: Int) -> Bool {
    guard let decision = ledger?.fault(at: page) else { return true }
    switch decision {
    case .request:
      request(page)
      return true
    case .alreadyRequested: return true
    case .zeroFill, .refillOrWake: return fillOne(page, 0)
    case .poison: return fillOne(page, SimulatedMemory.poison)
    case .stageFill: return stage[page].map { fillOne(page, $0) } ?? true
    }
  }

  mutating func fillOne(_ page: Int, _ content: UInt32) -> Bool {
    switch memory.fill(page, [content]) {
    case .done:
      if content == SimulatedMemory.poison {
        ledger?.poisoned(page..<page + 1)
      } else {
        ledger?.installed(page..<page + 1)
      }
    case .exists: existing(page)
    case .again: return false
    }
    return true
  }

  /// EEXIST proves that the page is there, not that its waiter was woken.
  private mutating func existing(_ page: Int) {
    if let state = ledger?[page], state != .poisoned { ledger?.installed(page..<page + 1) }
    if mutation != .existingNotWoken { memory.wake(page) }
  }

  mutating func scheduleInstall() {
    guard ledger != nil, !isInstallScheduled, !staged.isEmpty || hasStagedPages else {
      return
    }
    isInstallScheduled = true
    schedule(.installs(life: destinationLife), within: 5_000..<80_000)
  }

  mutating func install(life: Int) {
    guard isCurrent(.destination, life), ledger != nil else { return }
    isInstallScheduled = false
    if mutation == .stagedCountedResident { countStagedAsResident() }
    let isWhole: Bool
    if hasStagedPages, staged.isEmpty || random.chance(perMille: 500) {
      isWhole = installFromStage()
    } else {
      guard !staged.isEmpty, let isPacketWhole = installPacket() else { return }
      isWhole = isPacketWhole
    }
    // A filler that meets unread events lets go of the lock, so that the reader drains them.
    if !isWhole { scheduleHandler() }
    releaseWoken()
    checkWaiters()
    checkResident()
    scheduleInstall()
  }

  /// Installs what has arrived first; nil for what is nothing to install.
  private mutating func installPacket() -> Bool? {
    let isWhole: Bool
    switch staged.removeFirst() {
    case .pages(let start, let versions): isWhole = installPages(start, versions)
    case .poisoned(let page):
      let isAwaited = ledger?.nextAwaitedRun(in: page..<page + 1) != nil
      isWhole = !isAwaited || fillOne(page, SimulatedMemory.poison)
      if !isWhole { staged.insert(.poisoned(page), at: 0) }
    case .zeroRun(let range):
      _ = ledger?.zeroArrived(range)
      isWhole = fillZeroWaiters(range)
      if !isWhole { staged.insert(.zeroRun(range), at: 0) }
    case .pushFinished:
      sweepMissing()
      isWhole = true
    case .control, .request, .runBegins, .deviceState, .residentMap: return nil
    }
    return isWhole
  }

  /// All that was pushed is installed: what is missing all the same is asked for.
  private mutating func sweepMissing() {
    guard hosts[1].connection != nil, mutation != .missingNotAskedFor else { return }
    var start = 0
    while let run = ledger?.nextRun(of: .missing, in: start..<plan.pageCount) {
      for page in run {
        _ = ledger?.fault(at: page)
        request(page)
      }
      seedCounts.sweptPageCount += run.count
      start = run.upperBound
    }
  }

  private mutating func fillZeroWaiters(_ range: Range<Int>) -> Bool {
    var start = range.lowerBound
    while let run = ledger?.nextRequestedRun(in: start..<range.upperBound) {
      for page in run where !fillOne(page, 0) { return false }
      start = run.upperBound
    }
    return true
  }

  /// Fills the awaited runs; puts back what EAGAIN left over and says false.
  private mutating func installPages(_ start: Int, _ versions: [UInt32]) -> Bool {
    var position = start
    let end = start + versions.count
    if mutation == .overwriteOnExisting {
      _ = memory.fill(start, versions, overwrites: true)
      ledger?.installed(start..<end)
      return true
    }
    while let run = ledger?.nextAwaitedRun(in: position..<end) {
      let cut = isTroubled(.partialCopy) ? 1 : nil
      let contents = Array(versions[(run.lowerBound - start)..<(run.upperBound - start)])
      let result = memory.fill(run.lowerBound, contents, isCutShortAt: cut)
      // The one moment in which the memory knows more than the page-state file.
      if isTroubled(.crash) {
        crash(.destination)
        return true
      }
      switch result {
      case .done:
        ledger?.installed(run)
        position = run.upperBound
      case .again(let filledCount):
        position = run.lowerBound + filledCount
        ledger?.installed(run.lowerBound..<position)
        if !memory.unreadRemovals.isEmpty {
          staged.insert(
            .pages(start: position, versions: Array(versions[(position - start)...])), at: 0)
          return false
        }
      case .exists(let filledCount):
        position = run.lowerBound + filledCount
        ledger?.installed(run.lowerBound..<position)
        existing(position)
        position += 1
      }
    }
    return true
  }

  /// Tells the core once in each life.
  mutating func checkResident() {
    guard let ledger else { return }
    if ledger.isAllHere || (mutation == .allHereTooEarly && ledger.count(of: .requested) == 0) {
      sayHere()
    }
    if ledger.isComplete { sayResident() }
  }

  private mutating func sayHere() {
    guard !hasSaidHere, hosts[1].isAlive else { return }
    hasSaidHere = true
    agenda.add(.destinationHears(.allHere, life: destinationLife), at: nanoseconds)
  }

  private mutating func sayResident() {
    guard !hasSaidResident, hosts[1].isAlive else { return }
    hasSaidResident = true
    agenda.add(.destinationHears(.allResident, life: destinationLife), at: nanoseconds)
  }

  private mutating func countStagedAsResident() {
    guard let ledger else { return }
    var isHere = (0..<plan.pageCount).map { !ledger[$0].isAwaited }
    for packet in staged {
      switch packet {
      case .pages(let start, let versions):
        for page in start..<start + versions.count { isHere[page] = true }
      case .zeroRun(let range): for page in range { isHere[page] = true }
      case .poisoned(let page): isHere[page] = true
      case .control, .request, .runBegins, .deviceState, .residentMap, .pushFinished: break
      }
    }
    if isHere.allSatisfy({ $0 }) { sayResident() }
  }
}
