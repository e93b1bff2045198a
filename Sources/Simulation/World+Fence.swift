internal import Migration
internal import Wire

/// The operator's oath that the destination is dead: the one way around a hand-off.
extension World {
  /// Takes the session from its process, and begins to write FENCED where the fence is allowed: the
  /// last word of the journal is HANDED_OFF. False when it is not.
  mutating func fence() -> Bool {
    if isFencing { return true }
    if hosts[0].isAlive { return false }
    guard case .handedOff(let epoch)? = sourceJournal.records.last else { return false }
    isFencing = true
    _ = sourceJournal.append(.fenced(epoch: epoch.advanced(by: 1)))
    if mutation == .fencedWithoutRecord {
      sourceVMM.commands.append((.resume, -1))
      schedule(.vmmActs(.source), within: 30_000..<300_000)
      schedule(.trouble(.fenceEnds), within: 2_000_000..<3_000_000)
    } else {
      schedule(.trouble(.fenceEnds), within: 100_000..<500_000)
    }
    return true
  }

  /// FENCED is durable, or its writer was killed and may have written it or not.
  mutating func fenceEnds() {
    guard isFencing else { return }
    isFencing = false
    if !hasHealed && random.chance(perMille: 300) {
      sourceJournal.crash(keeping: &random)
    } else {
      _ = sourceJournal.makeDurable(through: sourceJournal.records.count - 1)
    }
    restart(.source)
  }

  /// The VM that there ought to be is, after a true oath, the one of the freeze: what the
  /// destination did with it is gone with its host. A false oath changes nothing about the VM.
  mutating func honourOath() {
    guard isDestinationDestroyed, !isOathHonoured,
      case .fenced? = sourceJournal.records.last
    else { return }
    isOathHonoured = true
    hasDestinationRun = false
    oracle = sourceMemory
  }

  /// The operator parks the source if need be, and swears though the destination lives.
  mutating func swearFalsely() {
    if hosts[0].isAlive { feedSource(.operatorPark) }
    _ = fence()
  }

  /// P1: behind a durable HANDED_OFF nobody lets the source's VM run without a durable record that
  /// allows it.
  mutating func checkResume() {
    var isAllowed = true
    for record in sourceJournal.durableRecords {
      switch record {
      case .handedOff: isAllowed = false
      case .resumed, .fenced: isAllowed = true
      case .opened, .ranAcknowledged, .completed, .aborted: break
      }
    }
    if !isAllowed {
      violate("P1", "the source's VM is let run behind HANDED_OFF without RESUMED or FENCED")
    }
  }
}
