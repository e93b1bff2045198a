internal import Migration
internal import Pages
internal import Wire

/// The source's edge: carries out the core's effects.
extension World {
  var sourceLife: Int { hosts[Side.source.rawValue].life }

  mutating func startSource() {
    sourceCore.start(now: Instant(nanoseconds: nanoseconds), into: &sourceEffects)
    carryOutSource()
  }

  mutating func feedSource(_ event: SourceEvent) {
    note("source ← \(event)")
    sourceCore.handle(event, now: Instant(nanoseconds: nanoseconds), into: &sourceEffects)
    carryOutSource()
  }

  private mutating func carryOutSource() {
    let life = sourceLife
    visited[0] |= 1 << UInt64(sourceCore.state.rawValue)
    while let effect = sourceEffects.next() {
      // A process that has died has done only the effects before its death.
      if !isCurrent(.source, life) { continue }
      note("source → \(effect)")
      carryOut(effect)
      if isTroubled(.crash) { crash(.source) }
    }
  }

  private mutating func carryOut(_ effect: SourceEffect) {
    switch effect {
    case .journal(let record): journal(record)
    case .journalLazily(let record): _ = sourceJournal.append(record)
    case .listen: isListening = true
    case .beginSeeding: endRounds()
    case .endSeeding: break
    case .pauseVM: command(.pause)
    case .resumeVM: command(.resume)
    case .saveDeviceState: command(.saveState)
    case .disableVM: command(.disable)
    case .beginServing: isServing = true
    case .endServing:
      isServing = false
      isPushing = false
    case .beginPush:
      isPushing = true
      restartPush()
    case .releaseMemory: releaseMemory()
    case .send(let message): send(.control(message), from: .source)
    case .disconnect: disconnect(.source)
    case .setTimer(let timer, let instant): arm(.source, Int(timer.rawValue), at: instant)
    case .cancelTimer(let timer): hosts[0].timerGenerations[Int(timer.rawValue)] += 1
    case .refuseStop: break
    case .finish(let outcome): finish(.source, outcome)
    }
  }

  private mutating func journal(_ record: SourceRecord) {
    let fault = HandOverRecord(record).flatMap { takeScripted(.record($0)) }
    if let failure = drawJournalFailure(fault) {
      if failure.isDurable { _ = sourceJournal.makeDurable(through: sourceJournal.append(record)) }
      let answer = JournalAnswer.failed(
        record, mayBeDurable: failure.mayBeDurable, Refusal(.journal, "the disk is full"))
      schedule(
        .sourceHears(.journal(answer), life: sourceLife), within: 50_000..<400_000)
      return
    }
    if fault == .writerDiesBefore { return crashSoon(.source) }
    let index = sourceJournal.append(record)
    if fault == .writerDiesAfter {
      _ = sourceJournal.makeDurable(through: index)
      return crashSoon(.source)
    }
    if mutation == .goBeforeLog, case .handedOff = record {
      agenda.add(
        .sourceHears(.journal(.durable(record)), life: sourceLife), at: nanoseconds)
      schedule(
        .journalWritten(.source, index: index, life: sourceLife), within: 2_000_000..<3_000_000)
      return
    }
    schedule(.journalWritten(.source, index: index, life: sourceLife), within: 100_000..<500_000)
  }

  /// Whether an append fails, by the plan or by the script, and what it leaves on the disk.
  mutating func drawJournalFailure(
    _ fault: HandOverFault.Kind?
  ) -> (mayBeDurable: Bool, isDurable: Bool)? {
    switch fault {
    case .fails: return (false, false)
    case .failsUnclear: return (true, false)
    case .failsDurable: return (true, true)
    default: break
    }
    guard isTroubled(.journal) else { return nil }
    let mayBeDurable = random.chance(perMille: 500)
    return (mayBeDurable, mayBeDurable && random.chance(perMille: 500))
  }

  mutating func crashSoon(_ side: Side) {
    agenda.add(.trouble(.crash(side)), at: nanoseconds + 50_000)
  }

  mutating func journalWritten(_ side: Side, index: Int) {
    switch side {
    case .source:
      let record = sourceJournal.makeDurable(through: index)
      if mutation == .goBeforeLog, case .handedOff = record { return }
      feedSource(.journal(.durable(record)))
    case .destination:
      let record = destinationJournal.makeDurable(through: index)
      if mutation == .runBeforeLog, case .goAccepted = record { return }
      feedDestination(.journal(.durable(record)))
    }
  }

  private mutating func command(_ command: VMMCommand) {
    sourceVMM.commands.append((command, sourceLife))
    schedule(.vmmActs(.source), within: 30_000..<300_000)
  }

  mutating func sourceVMMActs() {
    guard !sourceVMM.commands.isEmpty else { return }
    let (command, life) = sourceVMM.commands.removeFirst()
    let fails =
      isTroubled(.vmm) || (sourceVMM.isGone && command != .disable)
    let refusal = Refusal(.vmm, "the VMM refused")
    let event: SourceVMMEvent
    switch command {
    case .pause:
      // A failed pause may have stopped the VM all the same.
      if !fails || random.chance(perMille: 500) { sourceVMM.isRunning = false }
      event = fails ? .pauseFailed(refusal) : .paused(discardPageCount: staleSeedCount)
      if !fails { claimFreshSeeds() }
    case .resume:
      if !fails {
        checkResume()
        sourceVMM.isRunning = true
        isPausedForLook = false
        hasSourceResumed = true
        sourceVMM.isSealed = false
        scheduleSourceGuest()
      }
      event = fails ? .resumeFailed(refusal) : .resumed
    case .saveState:
      if fails || sourceVMM.isRunning {
        event = .deviceStateSaveFailed(refusal)
      } else {
        if isCurrent(.source, life) {
          agenda.add(.deviceStateLeaves(life: life), at: nanoseconds)
        }
        sourceVMM.commands.insert((.seal, life), at: 0)
        // The destination may be prepared before.
        schedule(.vmmActs(.source), within: 5_000..<1_500_000)
        return
      }
    case .seal:
      sourceVMM.isSealed = !sourceVMM.isRunning
      event = sourceVMM.isSealed ? .deviceStateSaved : .deviceStateSaveFailed(refusal)
    case .disable:
      if !fails {
        sourceVMM.isGone = true
        sourceVMM.isRunning = false
      }
      event = fails ? .disableFailed(refusal) : .disabled
    case .load, .run: return
    }
    note("source VMM: \(command) \(fails ? "fails" : "done")")
    sourceVMMSays(event, life: life)
  }

  /// An answer or an event of the VMM, in the order in which things happened there.
  mutating func sourceVMMSays(_ event: SourceVMMEvent, life: Int) {
    let earliest = max(sourceVMM.lastAnswerNanoseconds, nanoseconds) + 1
    sourceVMM.lastAnswerNanoseconds = earliest + random.nanoseconds(in: 1_000..<20_000)
    agenda.add(
      .sourceHears(.vmm(event), life: life), at: sourceVMM.lastAnswerNanoseconds)
  }

  private var staleSeedCount: PageCount {
    PageCount(
      (0..<plan.pageCount).count {
        seededVersions[$0] != nil && seededVersions[$0] != sourceMemory[$0]
      })
  }
}
