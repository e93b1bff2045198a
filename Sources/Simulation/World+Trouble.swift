internal import Migration
internal import Wire

/// What goes wrong, and the healthy tail in which everything must come to an end.
extension World {
  mutating func scheduleTrouble() {
    let span = plan.calmNanoseconds..<plan.calmNanoseconds + SimulationPlan.troubleNanoseconds
    for _ in 0..<plan.linkBreakCount { schedule(.linkBreaks, within: span) }
    for _ in 0..<plan.crashCount {
      schedule(.crash(random.chance(perMille: 500) ? .source : .destination), within: span)
    }
    for _ in 0..<plan.operatorCount {
      let side: Side = random.chance(perMille: 500) ? .source : .destination
      schedule(.operatorActs(side, parks: random.chance(perMille: 300)), within: span)
    }
    for _ in 0..<plan.selfResumeCount { schedule(.selfResume, within: span) }
    for _ in 0..<plan.memoryLossCount { schedule(.memoryLost, within: span) }
    if plan.doesDestinationVMDie { schedule(.destinationVMDies, within: span) }
    agenda.add(.heal, at: plan.healNanoseconds)
  }

  mutating func crash(_ side: Side) {
    guard hosts[side.rawValue].isAlive, !hasHealed else { return }
    note("CRASH of the \(side)")
    let connection = hosts[side.rawValue].connection
    end(side)
    switch side {
    case .source: sourceJournal.crash(keeping: &random)
    case .destination: destinationJournal.crash(keeping: &random)
    }
    if let connection {
      schedule(.notices(side.other, connection: connection), within: 50_000..<1_000_000)
    }
    schedule(.restart(side), within: 200_000..<2_500_000)
  }

  /// The process is gone; the VMMs, the userfaultfd and the page-state file are not.
  private mutating func end(_ side: Side) {
    hosts[side.rawValue].isAlive = false
    hosts[side.rawValue].life += 1
    hosts[side.rawValue].connection = nil
    switch side {
    case .source:
      isListening = false
      isServing = false
      isPushing = false
      isPushHeld = false
      isPushScheduled = false
    case .destination:
      if let ledger {
        recordedStates = (0..<ledger.pageCount).map { ledger[$0].rawValue }
      }
      ledger = nil
      staged = []
      isInstallScheduled = false
      isHandlerScheduled = false
      hasSaidResident = false
    }
  }

  mutating func finish(_ side: Side, _ outcome: Outcome) {
    hosts[side.rawValue].outcome = outcome
    closeLink(of: side)
    end(side)
  }

  mutating func restart(_ side: Side) {
    guard !hosts[side.rawValue].isAlive, !hosts[side.rawValue].isDone else { return }
    hosts[side.rawValue].isAlive = true
    hosts[side.rawValue].outcome = nil
    acceptsLinks[side.rawValue] = true
    switch side {
    case .source:
      guard
        let core = SourceCore(
          recovering: sourceJournal.records, vm: sourceVMM.observed, limits: plan.sourceLimits)
      else { return neverBegan(.source) }
      sourceCore = core
      startSource()
    case .destination:
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

  mutating func heal() {
    hasHealed = true
    plan.heal()
    acceptsLinks = [true, true]
    // A link that is half dead is found out by its own notice; what was lost with it is lost.
    if let connection = hosts[0].connection ?? hosts[1].connection {
      for side in Side.allCases {
        schedule(.notices(side, connection: connection), within: 10_000..<1_000_000)
      }
    }
    schedule(.supervise, within: 1_000_000..<2_000_000)
  }

  /// What an operator or a service manager does: starts again what has stopped short of an end.
  mutating func supervise() {
    schedule(.supervise, within: 4_000_000..<5_000_000)
    if hasDestinationVMDied, hosts[1].outcome?.ending == .parked,
      hosts[1].outcome?.destination == .killed
    {
      // It had been let run, or nobody can rule that out. P1 has been checked all along, and there
      // is nothing left to converge to.
      fate = .died
      return
    }
    if hosts[0].isDone && hosts[1].isDone {
      quietSuperviseCount += 1
      // One more round: whoever still waits for a page then waits for ever.
      if quietSuperviseCount > 1 { judge() }
      return
    }
    for side in Side.allCases {
      if !hosts[side.rawValue].isAlive && !hosts[side.rawValue].isDone { restart(side) }
    }
    if hosts[0].isDone, hosts[1].isAlive, destinationCore.state == .dialing {
      feedDestination(.operatorAbort)
    }
    guard hosts[1].isDone, hosts[0].isAlive else { return }
    if DestinationCore(recovering: destinationJournal.records, vm: .gone) == nil {
      feedSource(.operatorAbort)
    } else if hosts[0].connection == nil {
      // The source still needs a word of the destination: its journal says it again.
      hosts[1].outcome = nil
      restart(.destination)
    }
  }

  /// Both sides have ended: the VM must be in one place, whole, with nobody waiting.
  private mutating func judge() {
    if vcpus.prefix(plan.vcpuCount).contains(where: { $0.pendingPage != nil || $0.removal != nil })
      && destinationVMM.isRunning
    {
      return violate("P6", "a vCPU still waits")
    }
    if destinationVMM.isRunning {
      guard hosts[0].outcome?.ending == .completed, hosts[1].outcome?.ending == .completed else {
        return violate("P6", "the VM runs at the destination but a side did not complete")
      }
      for page in 0..<plan.pageCount
      where (memory.versions[page] ?? 0) != oracle[page] && !isBeingRemoved[page] {
        return violate("P4", "page \(page) is not the VM's in the end")
      }
      fate = .moved
    } else if sourceVMM.isRunning {
      for page in 0..<plan.pageCount where sourceMemory[page] != oracle[page] {
        return violate("P2", "page \(page) of the source is not the VM's in the end")
      }
      fate = .stayed
    } else if hasDestinationVMDied && hasDestinationRun {
      fate = .died
    } else {
      violate("P6", "the VM runs nowhere")
    }
  }
}
