internal import Migration
internal import Pages
internal import Wire

/// The destination's edge: carries out the core's effects.
extension World {
  var destinationLife: Int { hosts[Side.destination.rawValue].life }

  mutating func startDestination() {
    destinationCore.start(now: Instant(nanoseconds: nanoseconds), into: &destinationEffects)
    carryOutDestination()
  }

  mutating func feedDestination(_ event: DestinationEvent) {
    note("destination ← \(event)")
    destinationCore.handle(
      event, now: Instant(nanoseconds: nanoseconds), into: &destinationEffects)
    carryOutDestination()
  }

  private mutating func carryOutDestination() {
    let life = destinationLife
    visited[1] |= 1 << UInt64(destinationCore.state.rawValue)
    while let effect = destinationEffects.next() {
      // A process that has died has done only the effects before its death.
      if !isCurrent(.destination, life) { continue }
      note("destination → \(effect)")
      carryOut(effect)
      if isTroubled(.crash) { crash(.destination) }
    }
  }

  private mutating func carryOut(_ effect: DestinationEffect) {
    switch effect {
    case .journal(let record): journal(record)
    case .journalLazily(let record): _ = destinationJournal.append(record)
    case .dial:
      beginDialling()
      schedule(.dial(life: destinationLife), within: 10_000..<200_000)
    case .discard: beginDiscards()
    case .beginFaults: beginFaults()
    case .loadDeviceState: command(.load)
    case .runVM: command(.run)
    case .killVM: killDestinationVM()
    case .unregister: unregister()
    case .send(let message): send(.control(message), from: .destination)
    case .disconnect: disconnect(.destination)
    case .setTimer(let timer, let instant): arm(.destination, Int(timer.rawValue), at: instant)
    case .cancelTimer(let timer): hosts[1].timerGenerations[Int(timer.rawValue)] += 1
    case .refuseStop: break
    case .finish(let outcome): finish(.destination, outcome)
    }
  }

  private mutating func journal(_ record: DestinationRecord) {
    if case .complete = record { checkCompleteness() }
    let fault = HandOverRecord(record).flatMap { takeScripted(.record($0)) }
    if let failure = drawJournalFailure(fault) {
      if failure.isDurable {
        _ = destinationJournal.makeDurable(through: destinationJournal.append(record))
      }
      let answer = JournalAnswer.failed(
        record, mayBeDurable: failure.mayBeDurable, Refusal(.journal, "the disk is full"))
      schedule(
        .destinationHears(.journal(answer), life: destinationLife), within: 50_000..<400_000)
      return
    }
    if fault == .writerDiesBefore { return crashSoon(.destination) }
    let index = destinationJournal.append(record)
    if fault == .writerDiesAfter {
      _ = destinationJournal.makeDurable(through: index)
      return crashSoon(.destination)
    }
    if mutation == .runBeforeLog, case .goAccepted = record {
      agenda.add(
        .destinationHears(.journal(.durable(record)), life: destinationLife), at: nanoseconds)
      schedule(
        .journalWritten(.destination, index: index, life: destinationLife),
        within: 2_000_000..<3_000_000)
      return
    }
    schedule(
      .journalWritten(.destination, index: index, life: destinationLife),
      within: 100_000..<500_000)
  }

  /// P4: COMPLETE may be said only when every page is here, zero or removed.
  private mutating func checkCompleteness() {
    for page in 0..<plan.pageCount
    where (memory.versions[page] ?? 0) != oracle[page] && !isBeingRemoved[page] {
      return violate("P4", "COMPLETE is said while page \(page) is not here")
    }
  }

  private mutating func command(_ command: VMMCommand) {
    destinationVMM.commands.append((command, destinationLife))
    schedule(.vmmActs(.destination), within: 30_000..<300_000)
  }

  mutating func destinationVMMActs() {
    guard !destinationVMM.commands.isEmpty else { return }
    let (command, life) = destinationVMM.commands.removeFirst()
    let refusal = Refusal(.vmm, "the VMM refused")
    switch command {
    case .load:
      if destinationVMM.isGone { return }
      vcpus[loader].isLoading = true
      vcpus[loader].loadLife = life
      vcpus[loader].loadList = (0..<3).map { _ in random.number(in: 0..<plan.pageCount) }
      scheduleVCPU(loader)
    case .run:
      if destinationVMM.isGone {
        schedule(
          .destinationHears(.vmm(.runRefused(isShownNotRunning: true, refusal)), life: life),
          within: 1_000..<20_000)
        return
      }
      let isScripted = takeScripted(.command(.run)) == .refused
      let fails = (isTroubled(.vmm) || isScripted) && !destinationVMM.isRunning
      let isShownNotRunning = random.chance(perMille: 500) || isScripted
      // A VMM that gives no clear answer may run all the same.
      let runs = !fails || (!isShownNotRunning && random.chance(perMille: 500))
      if runs { runDestinationVM() }
      let event: DestinationVMMEvent =
        fails
        ? .runRefused(isShownNotRunning: isShownNotRunning, refusal)
        : .running(since: Instant(nanoseconds: nanoseconds))
      schedule(.destinationHears(.vmm(event), life: life), within: 1_000..<20_000)
    case .pause, .resume, .saveState, .seal, .disable: return
    }
    note("destination VMM: \(command)")
  }

  private mutating func runDestinationVM() {
    // One that was restarted meanwhile has lost its stage, and runs as in post-copy.
    if destinationCore.fillsBeforeRun, let ledger, !ledger.isAllHere {
      violate("fill", "the VM is let run while pages are awaited that were to be here before")
    }
    destinationVMM.isRunning = true
    hasDestinationRun = true
    for vcpu in 0..<plan.vcpuCount { scheduleVCPU(vcpu) }
  }

  private mutating func killDestinationVM() {
    if isTroubled(.vmm) {
      schedule(
        .destinationHears(
          .vmm(.killFailed(Refusal(.vmm, "the VMM does not die"))), life: destinationLife),
        within: 1_000..<20_000)
      return
    }
    if vcpus[loader].isLoading {
      schedule(
        .destinationHears(
          .vmm(.loadFailed(Refusal(.vmm, "the VMM closed its socket"))),
          life: vcpus[loader].loadLife), within: 1_000..<200_000)
    }
    endDestinationVM()
    schedule(.destinationHears(.vmm(.killed), life: destinationLife), within: 1_000..<100_000)
  }

  mutating func endDestinationVM() {
    destinationVMM.isGone = true
    destinationVMM.isRunning = false
    for vcpu in vcpus.indices {
      vcpus[vcpu].pendingPage = nil
      vcpus[vcpu].isQueueing = false
      vcpus[vcpu].isLoading = false
    }
  }

  private mutating func beginDiscards() {
    if mutation == .loadBeforeDiscard {
      agenda.add(.destinationHears(.discardsApplied, life: destinationLife), at: nanoseconds)
      schedule(.discardsEnd(life: -1), within: 1_500_000..<3_000_000)
    } else {
      schedule(.discardsEnd(life: destinationLife), within: 50_000..<500_000)
    }
  }

  /// The final dirty set, as the source's tracker found it at the freeze.
  mutating func discardsEnd(life: Int) {
    for page in 0..<plan.pageCount {
      guard let seeded = seededVersions[page], seeded != sourceMemory[page] else { continue }
      if mutation != .missingDiscard { stage[page] = nil }
    }
    if isCurrent(.destination, life) { feedDestination(.discardsApplied) }
  }

  /// Opens the page states: fresh with the seeds as present, or as an earlier life left them.
  private mutating func beginFaults() {
    if var bytes = recordedStates {
      if mutation == .removedRefetched {
        bytes = bytes.map {
          $0 == PageState.removed.rawValue ? PageState.missing.rawValue : $0
        }
      }
      guard let recovered = try? PageLedger(recovering: PageStateArray(bytes: bytes)) else {
        return violate("P2", "the recorded page states are unreadable")
      }
      ledger = recovered
    } else {
      ledger = PageLedger(fresh: PageStateArray(pageCount: plan.pageCount))
      recordStage()
    }
    // Whoever waited for a dead handler faults again.
    for page in 0..<plan.pageCount { memory.wake(page) }
    releaseWoken()
    scheduleHandler()
    requestAgain()
    scheduleInstall()
    checkResident()
  }

  private mutating func unregister() {
    memory.isRegistered = false
    memory.unreadFaults = []
    for (_, vcpu) in memory.unreadRemovals { schedule(.zap(vcpu: vcpu), within: 1_000..<20_000) }
    memory.unreadRemovals = []
    for page in 0..<plan.pageCount { memory.wake(page) }
    releaseWoken()
  }
}
