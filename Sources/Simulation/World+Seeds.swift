internal import Migration
internal import Wire

/// What rounds before the freeze bring over, and what becomes of it.
extension World {
  /// A seed of a round that was lost with its link: nobody knows whether it is there.
  private static let unknownSeed = SimulatedMemory.poison - 1

  /// Two rounds over two bulk connections while the VM runs: the second one sends again what was
  /// dirtied in between. A page has one fixed connection, so that its seeds cannot overtake each
  /// other; what both connections carry is mixed at random. Either round may be lost with its link.
  mutating func seedMemory() {
    var queues: [[(page: Int, version: UInt32)]] = [[], []]
    var pending = [Bool](repeating: false, count: plan.pageCount)
    for round in 0..<2 {
      for page in 0..<plan.pageCount where sourceMemory[page] != SimulatedMemory.poison {
        if round == 1 ? isSeedDirtied(page) : random.chance(perMille: 400) { pending[page] = true }
      }
      if random.chance(perMille: 250) {
        deliver(&queues)
        loseRound(&pending)
        continue
      }
      for page in 0..<plan.pageCount where pending[page] {
        let connection = mutation == .staleSeedAfterNewer ? round : page % 2
        queues[connection].append((page, sourceMemory[page]))
        seededVersions[page] = sourceMemory[page]
        pending[page] = false
      }
    }
    deliver(&queues)
  }

  private mutating func deliver(_ queues: inout [[(page: Int, version: UInt32)]]) {
    while !queues[0].isEmpty || !queues[1].isEmpty {
      let drawn = random.number(in: 0..<2)
      let connection = queues[drawn].isEmpty ? 1 - drawn : drawn
      let seed = queues[connection].removeFirst()
      seeds[seed.page] = seed.version
    }
  }

  /// The link breaks in the middle of a round. Of what was sent the destination has taken in a
  /// part, and of a part of that the source was told, by credit: that need not be sent again.
  private mutating func loseRound(_ pending: inout [Bool]) {
    for connection in 0..<2 {
      let queue = (0..<plan.pageCount).filter { pending[$0] && $0 % 2 == connection }
      let sentCount = random.number(in: 0..<queue.count + 1)
      let takenCount = random.number(in: 0..<sentCount + 1)
      let toldCount =
        mutation == .seedTakenWhenSent ? sentCount : random.number(in: 0..<takenCount + 1)
      for (position, page) in queue.enumerated() {
        if position < takenCount { seeds[page] = sourceMemory[page] }
        let wasThere = seededVersions[page] != nil && seededVersions[page] != Self.unknownSeed
        pending[page] =
          position >= toldCount && !(mutation == .seedToldByEarlierRound && wasThere)
        seededVersions[page] = pending[page] ? Self.unknownSeed : sourceMemory[page]
      }
    }
  }

  /// The VM is stopped: what was seeded and is still right is not pushed.
  mutating func claimFreshSeeds() {
    for page in 0..<plan.pageCount where seededVersions[page] == sourceMemory[page] {
      isPushable[page] = false
    }
  }

  /// What the page ledger knows of the stage when faults begin to be answered.
  mutating func recordStage() {
    for (page, version) in stage.sorted(by: { $0.key < $1.key }) {
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
  /// fail.
  mutating func endRounds() {
    if hosts[1].isAlive { stage = seeds }
    let event: SourceEvent =
      isTroubled(.vmm)
      ? .seedingFailed(Refusal(.vmm, "the dirty log is lost")) : .seeded(plan.switchReason)
    schedule(.sourceHears(event, life: sourceLife), within: 50_000..<400_000)
  }

  /// Whether the guest has written a page since the first round; if so, it has a new version.
  private mutating func isSeedDirtied(_ page: Int) -> Bool {
    guard seededVersions[page] != nil, random.chance(perMille: 300) else { return false }
    sourceMemory[page] = nextVersion
    oracle[page] = nextVersion
    nextVersion += 1
    return true
  }
}
