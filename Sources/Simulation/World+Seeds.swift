internal import Migration

/// What rounds before the freeze have brought over; the cores begin behind them.
extension World {
  /// Two rounds over two bulk connections while the VM runs: the second one sends again what was
  /// dirtied in between. A page has one fixed connection, so that its seeds cannot overtake each
  /// other; what both connections carry is mixed at random.
  mutating func seedMemory() {
    var queues: [[(page: Int, version: UInt32)]] = [[], []]
    for round in 0..<2 {
      for page in 0..<plan.pageCount where sourceMemory[page] != SimulatedMemory.poison {
        guard round == 1 ? isSeedDirtied(page) : random.chance(perMille: 400) else { continue }
        let connection = mutation == .staleSeedAfterNewer ? round : page % 2
        queues[connection].append((page, sourceMemory[page]))
        seededVersions[page] = sourceMemory[page]
      }
    }
    while !queues[0].isEmpty || !queues[1].isEmpty {
      let drawn = random.number(in: 0..<2)
      let connection = queues[drawn].isEmpty ? 1 - drawn : drawn
      let seed = queues[connection].removeFirst()
      if memory.versions[seed.page] == nil {
        _ = memory.fill(seed.page, [seed.version])
      } else {
        memory.write(seed.page, seed.version)
      }
    }
    memory.wokenPages = []
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
