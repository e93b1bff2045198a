internal import Migration
internal import Wire

/// What goes wrong in safety mode.
extension World {
  mutating func scheduleTrouble() {
    let span = plan.calmNanoseconds..<plan.calmNanoseconds + plan.troubleNanoseconds + 1
    for _ in 0..<plan[.breaks] { schedule(.trouble(.linkBreaks(connection: nil)), within: span) }
    for _ in 0..<plan[.partitions] { schedule(.trouble(.partition), within: span) }
    for _ in 0..<plan[.stalls] {
      let side: Side = random.chance(perMille: 500) ? .source : .destination
      schedule(.trouble(.stall(side)), within: span)
    }
    for _ in 0..<plan[.crashes] {
      let side: Side = random.chance(perMille: 500) ? .source : .destination
      schedule(.trouble(.crash(side)), within: span)
    }
    for _ in 0..<plan[.operators] {
      let side: Side = random.chance(perMille: 500) ? .source : .destination
      schedule(
        .trouble(.operatorActs(side, parks: random.chance(perMille: 300))), within: span)
    }
    for _ in 0..<plan[.selfResumes] { schedule(.trouble(.selfResume), within: span) }
    for _ in 0..<plan[.memoryLosses] { schedule(.trouble(.memoryLost), within: span) }
    for _ in 0..<plan[.vmDeaths] { schedule(.trouble(.destinationVMDies), within: span) }
    for _ in 0..<plan[.hostDeaths] { schedule(.trouble(.destinationHostDies), within: span) }
    for _ in 0..<plan[.falseOaths] { schedule(.trouble(.falseOath), within: span) }
    agenda.add(.trouble(.heal), at: plan.healNanoseconds)
    // What a script has killed or parked goes on before its next fault is due.
    if !script.isEmpty { schedule(.trouble(.supervise), within: 4_000_000..<5_000_000) }
  }

  /// A process is stopped: nothing is lost, everything comes late.
  mutating func stall(_ side: Side) {
    // What waits for the end of a stop is in its order; a longer one would mix it up.
    guard hosts[side.rawValue].isAlive, hosts[side.rawValue].stalledUntil <= nanoseconds,
      !hasHealed
    else { return }
    // A look that it was about to make is made behind what comes meanwhile.
    hosts[side.rawValue].isLinkDoubted = false
    hosts[side.rawValue].stalledUntil =
      nanoseconds + random.nanoseconds(in: 200_000..<8_000_000)
  }

  mutating func crash(_ side: Side) {
    guard hosts[side.rawValue].isAlive, !hasHealed else { return }
    note("CRASH of the \(side)")
    let connection = hosts[side.rawValue].connection
    let dialledConnection = side == .destination ? dialled : nil
    end(side)
    switch side {
    case .source: sourceJournal.crash(keeping: &random)
    case .destination: destinationJournal.crash(keeping: &random)
    }
    // Its kernel closes what it had open.
    if let connection = connection ?? dialledConnection {
      tellClosed(from: side, connection, behind: nanoseconds)
    }
    schedule(.trouble(.restart(side)), within: 200_000..<2_500_000)
  }

  /// The process is gone; the VMMs, the userfaultfd and the page-state file are not.
  mutating func end(_ side: Side) {
    hosts[side.rawValue].isAlive = false
    hosts[side.rawValue].life += 1
    hosts[side.rawValue].stalledUntil = 0
    halfRun = side == .destination ? nil : halfRun
    endLink(side)
    switch side {
    case .source:
      isListening = false
      isServing = false
      isPushing = false
      isPushHeld = false
      isPushScheduled = false
      toldResident = []
    case .destination:
      if let ledger {
        recordedStates = (0..<ledger.pageCount).map { ledger[$0].rawValue }
      }
      dialled = nil
      ledger = nil
      stage = [UInt32?](repeating: nil, count: plan.pageCount)
      staged = []
      isInstallScheduled = false
      isHandlerScheduled = false
      hasSaidHere = false
      hasSaidResident = false
    }
  }

  mutating func finish(_ side: Side, _ outcome: Outcome) {
    var outcome = outcome
    // The session was over before the look was.
    if side == .source, isPausedForLook, outcome.source == .runs {
      outcome.ending = .parked
      outcome.source = .stopped
    }
    hosts[side.rawValue].outcome = outcome
    closeLink(of: side)
    end(side)
  }

  mutating func restart(_ side: Side) {
    guard !hosts[side.rawValue].isAlive, !hosts[side.rawValue].isDone else { return }
    if side == .source && isFencing || side == .destination && isDestinationDestroyed { return }
    hosts[side.rawValue].isAlive = true
    hosts[side.rawValue].outcome = nil
    acceptsLinks[side.rawValue] = true
    switch side {
    case .source: restartSource()
    case .destination: restartDestination()
    }
  }

  private mutating func restartSource() {
    honourOath()
    guard
      let core = SourceCore(
        recovering: recoveredRecords, vm: sourceVMM.observed, limits: plan.sourceLimits)
    else { return neverBegan(.source) }
    sourceCore = core
    startSource()
  }

  /// Given up, but not at its end: a VM that is left paused is to be resumed first.
  private var recoveredRecords: [SourceRecord] {
    guard isPausedForLook else { return sourceJournal.records }
    return sourceJournal.records.filter { if case .aborted = $0 { false } else { true } }
  }

  private mutating func restartDestination() {
    guard
      let core = DestinationCore(
        recovering: destinationJournal.records, vm: destinationVMM.observed,
        limits: plan.destinationLimits)
    else {
      if destinationVMM.isGone || hasDestinationRun { return neverBegan(.destination) }
      destinationCore = DestinationCore(limits: plan.destinationLimits)
      return startDestination()
    }
    destinationCore = core
    startDestination()
  }

  /// Nothing is on the disk: there is no session to go on with.
  private mutating func neverBegan(_ side: Side) {
    finish(
      side,
      Outcome(ending: .refused, reason: nil, source: .unknown, destination: .unknown))
  }

  /// QEMU does this when its stream breaks before its migration is completed.
  mutating func selfResume() {
    guard !sourceVMM.isRunning, !sourceVMM.isGone, !sourceVMM.isSealed else { return }
    sourceVMM.isRunning = true
    isPausedForLook = false
    hasSourceResumed = true
    scheduleSourceGuest()
    sourceVMMSays(.resumedByItself, life: sourceLife)
  }

  mutating func destinationVMDies() {
    guard !destinationVMM.isGone else { return }
    hasDestinationVMDied = true
    endDestinationVM()
    schedule(
      .destinationHears(.vmm(.died(Refusal(.vmm, "the VMM died"))), life: destinationLife),
      within: 10_000..<300_000)
  }

  /// Power, fire: nobody closes a connection, and nothing comes back.
  mutating func destinationHostDies() {
    guard !isDestinationDestroyed else { return }
    isDestinationDestroyed = true
    hasDestinationVMDied = true
    if let connection = hosts[1].connection ?? dialled {
      network.swallow(from: .destination, on: connection)
    }
    if hosts[1].isAlive { end(.destination) }
    endDestinationVM()
    // Some time later the operator knows.
    schedule(.trouble(.operatorActs(.source, parks: true)), within: 4_000_000..<12_000_000)
  }

  mutating func loseSourceMemory() {
    schedule(
      .sourceHears(
        .memoryLost(Refusal(.memory, "the memory file is too short")), life: sourceLife),
      within: 1_000..<10_000)
  }

  mutating func operatorActs(_ side: Side, parks: Bool) {
    guard hosts[side.rawValue].isAlive else { return }
    switch side {
    case .source: feedSource(parks ? .operatorPark : .operatorAbort)
    case .destination: feedDestination(parks ? .operatorPark : .operatorAbort)
    }
  }
}
