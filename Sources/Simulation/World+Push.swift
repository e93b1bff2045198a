internal import Migration

/// What the source sends, and what it has been told that it need not send.
extension World {
  /// How many pages one frame of the resident map tells of.
  static let mapFramePageCount = 8

  /// A new link: the destination that comes back tells first what it has.
  mutating func beginMap(isAwaited: Bool) {
    isReturnLink = isAwaited
    isPushHeld = isAwaited && mutation != .pushBeforeMap
    if mutation != .halfMapApplied || !isAwaited { toldResident = [] }
    isPushable = [Bool](repeating: true, count: plan.pageCount)
    restartPush()
  }

  /// Its link is gone: what came of a map is dropped.
  mutating func endMap() {
    isDeviceStateHeld = false
    if mutation != .halfMapApplied || !isPushHeld { toldResident = [] }
  }

  mutating func takeMap(_ start: Int, _ isResident: [Bool]) {
    hosts[0].isBulkUp = true
    sendHeldDeviceState()
    guard isPushHeld else { return }
    // A frame before this one was lost, and the link with it: this map will never be whole.
    guard start == toldResident.count || mutation == .halfMapApplied else { return }
    toldResident += isResident
    guard toldResident.count >= plan.pageCount else { return }
    isPushHeld = false
    for page in 0..<plan.pageCount { isPushable[page] = !toldResident[page] }
    toldResident = []
    restartPush()
  }

  /// Everything that is not known to be there is pushed, from the first page on.
  mutating func restartPush() {
    pushQueue = (0..<plan.pageCount).filter { isPushable[$0] }
    isPushFinished = false
    schedulePush()
  }

  mutating func schedulePush() {
    guard isPushing, !isPushScheduled else { return }
    isPushScheduled = true
    schedule(.push(life: sourceLife), within: 20_000..<200_000)
  }

  mutating func push(life: Int) {
    guard isCurrent(.source, life) else { return }
    isPushScheduled = false
    guard isPushing, !isPushHeld, hosts[0].connection != nil,
      hosts[0].isBulkUp || mutation == .pushBeforeMap
    else { return }
    guard let first = pushQueue.first else {
      if mutation == .freeBeforeAcknowledgement { releaseMemory() }
      return finishPush()
    }
    if isPushHeld(byRuleOn: hosts[0].connection) {
      violate("order", "pages are pushed before the destination has told what it has")
    }
    var count = 1
    while count < 4, count < pushQueue.count, pushQueue[count] == first + count { count += 1 }
    pushQueue.removeFirst(count)
    sendPages(first..<first + count, isUrgent: false)
    schedulePush()
  }

  /// Behind it the destination asks for what it lacks. Only a seed can be missing there that the
  /// source takes for brought, so only a run with rounds is told.
  private mutating func finishPush() {
    guard plan.isSeeded, !isPushFinished else { return }
    isPushFinished = true
    send(.pushFinished, from: .source)
  }

  /// The ladder's order, as seen from the other side: a destination that came back tells first.
  private func isPushHeld(byRuleOn connection: Int?) -> Bool {
    isReturnLink && connection != mappedConnection
  }

  /// Sends pages as what they are: bytes, zeros, poison.
  mutating func sendPages(_ range: Range<Int>, isUrgent: Bool) {
    if isMemoryReleased { return violate("P5", "a page is served whose memory was freed") }
    var start = range.lowerBound
    while start < range.upperBound {
      let first = sourceMemory[start]
      if first == SimulatedMemory.poison {
        send(.poisoned(start), from: .source, isUrgent: isUrgent)
        start += 1
        continue
      }
      var end = start + 1
      while end < range.upperBound, sourceMemory[end] != SimulatedMemory.poison,
        (sourceMemory[end] == 0) == (first == 0)
      {
        end += 1
      }
      if first == 0 {
        send(.zeroRun(start..<end), from: .source, isUrgent: isUrgent)
      } else {
        sendRun(start, Array(sourceMemory[start..<end]), isUrgent: isUrgent)
      }
      start = end
    }
  }

  /// A longer run arrives in pieces; only when its last byte is there it counts.
  private mutating func sendRun(_ start: Int, _ versions: [UInt32], isUrgent: Bool) {
    if versions.count > 1, !isUrgent {
      var half = versions
      for position in versions.count / 2..<versions.count { half[position] = 0 }
      send(.runBegins(start: start, versions: half), from: .source)
      hosts[0].arrivalFloors[1] += random.nanoseconds(in: 1_000..<80_000)
    }
    send(.pages(start: start, versions: versions), from: .source, isUrgent: isUrgent)
  }

  /// The memory may go only when the destination has COMPLETE on its disk (P4) and the source has
  /// COMPLETED on its own (P5).
  mutating func releaseMemory() {
    isMemoryReleased = true
    isServing = false
    isPushing = false
    let isComplete = destinationJournal.durableRecords.contains {
      if case .complete = $0 { true } else { false }
    }
    let isAcknowledged = sourceJournal.durableRecords.contains {
      if case .completed = $0 { true } else { false }
    }
    if !isComplete || !isAcknowledged {
      violate("P5", "the source's memory is freed before a durably acknowledged COMPLETE")
    }
  }

  /// The device state goes out once its connection is there.
  mutating func deviceStateLeaves(life: Int) {
    guard isCurrent(.source, life), hosts[0].connection != nil else { return }
    if hosts[0].isBulkUp {
      send(.deviceState, from: .source)
    } else {
      isDeviceStateHeld = true
    }
  }

  private mutating func sendHeldDeviceState() {
    guard isDeviceStateHeld else { return }
    isDeviceStateHeld = false
    send(.deviceState, from: .source)
  }
}
