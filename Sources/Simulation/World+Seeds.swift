internal import Migration
internal import Wire

/// What rounds before the freeze bring over, and what becomes of it.
extension World {
  /// The rounds, which the destination is brought later: see `endRounds`.
  mutating func seedMemory() {
    var copy = random
    var rounds = SimulatedRounds(
      plan, sourceMemory, nextVersion: nextVersion, mutation: mutation,
      random: SeededRandom(seed: ~copy.next()), isTracing: isTracing)
    rounds.run()
    sourceMemory = rounds.memory
    oracle = sourceMemory
    nextVersion = rounds.nextVersion
    seededVersions = rounds.seededVersions
    seeds = rounds.stage.versions
    seedCounts = rounds.counts
    for line in rounds.trace { note(line) }
  }

  /// The VM is stopped: what was seeded and is still right is not pushed.
  mutating func claimFreshSeeds() {
    for page in 0..<plan.pageCount where seededVersions[page] == sourceMemory[page] {
      isPushable[page] = false
    }
  }

  /// What the page ledger knows of the stage when faults begin to be answered.
  mutating func recordStage() {
    for page in 0..<plan.pageCount {
      guard let version = stage[page] else { continue }
      if version == 0 {
        ledger?.seededZero(page..<page + 1)
      } else {
        ledger?.staged(page..<page + 1)
      }
    }
  }

  /// Whether pages wait to be installed from the stage.
  var hasStagedPages: Bool { ledger.map { $0.count(of: .staged) > 0 } ?? false }

  /// Installs the next one; false when it must wait until the events are read.
  mutating func installFromStage() -> Bool {
    guard let page = ledger?.nextRun(of: .staged, in: 0..<plan.pageCount)?.lowerBound,
      let version = stage[page]
    else { return true }
    return fillOne(page, version)
  }

  /// The rounds, in one moment: what they send was drawn before the cores began. Then they end, or
  /// fail, with the VM paused or running.
  mutating func endRounds() {
    if hosts[1].isAlive { stage = seeds }
    seedRun += 1
    schedule(
      .seedRunEnds(roundsEnd(), run: seedRun, life: sourceLife), within: 50_000..<400_000)
  }

  private mutating func roundsEnd() -> SourceEvent {
    let isFailing = isTroubled(.vmm)
    let leftPaused = SourceEvent.seedingLeftPaused(Refusal(.vmm, "the VMM refuses to resume"))
    if isPausedForLook {
      // An earlier run of this session's rounds, or a process before it, owes that.
      if isFailing { return leftPaused }
      resumeFromLook()
    }
    guard isFailing else { return .seeded(plan.switchReason) }
    guard sourceVMM.isRunning, random.chance(perMille: 500) else {
      return .seedingFailed(Refusal(.vmm, "the dirty log is lost"))
    }
    sourceVMM.isRunning = false
    isPausedForLook = true
    return leftPaused
  }

  private mutating func resumeFromLook() {
    isPausedForLook = false
    sourceVMM.isRunning = true
    scheduleSourceGuest()
  }
}
