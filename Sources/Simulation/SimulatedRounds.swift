/// The rounds of seeds before the freeze, over as many links as they take: what the source sends
/// and remembers of it, two bulk connections, what the destination takes in.
///
/// The guest writes between the rounds, and in the middle of them. They are drawn before the cores
/// begin, from numbers of their own.
struct SimulatedRounds {
  /// A seed of a round that was lost with its link: nobody knows whether it is there.
  private static let unknownSeed = SimulatedMemory.poison - 1
  private static let maximumRunPageCount = 8

  private let mutation: Mutation?
  private let plan: SimulationPlan
  private let isTracing: Bool
  private var random: SeededRandom
  private var round = 0

  /// What the guest's pages hold.
  private(set) var memory: [UInt32]
  /// A version that nobody has written yet.
  private(set) var nextVersion: UInt32
  /// What each page held before it was written last.
  private var earlier: [UInt32]

  private var sentSeeds: SimulatedSentSeeds
  /// What was written since the last look, as the log has it.
  private var isLogged: [Bool]
  /// What the destination lacks, as far as the log has told.
  private var isPending: [Bool]
  /// Pages of the round under way that were written behind their being taken to be sent, or are
  /// none of it, as a look in its middle has told.
  private var isStale: [Bool]
  /// What may be at the destination, stale or not.
  private var isSent: [Bool]
  /// What a round has brought, and no lost one put in doubt since.
  private var isBrought: [Bool]

  /// By connection, what is on its way, and what has come of the round.
  private var queues: [[SeedFrame]] = [[], []]
  private var taken: [[SeedFrame]] = [[], []]
  private(set) var stage: SimulatedSeedStage

  private(set) var counts = SeedCounts()
  private(set) var trace: [String] = []

  init(
    _ plan: SimulationPlan, _ memory: [UInt32], nextVersion: UInt32, mutation: Mutation?,
    random: SeededRandom, isTracing: Bool
  ) {
    self.mutation = mutation
    self.plan = plan
    self.memory = memory
    self.nextVersion = nextVersion
    self.random = random
    self.isTracing = isTracing
    let pageCount = plan.pageCount
    earlier = memory
    sentSeeds = SimulatedSentSeeds(
      pageCount: pageCount, placeCount: plan[.cache], mutation: mutation)
    isPending = [Bool](repeating: false, count: pageCount)
    isLogged = isPending
    isStale = isPending
    isSent = isPending
    isBrought = isPending
    stage = SimulatedSeedStage(pageCount: pageCount, mutation: mutation)
  }

  /// What the source takes the destination to have, by page; nil where nothing was sent.
  var seededVersions: [UInt32?] {
    memory.indices.map { isSent[$0] ? isPending[$0] ? Self.unknownSeed : memory[$0] : nil }
  }

  /// All rounds: each sends what was written since the one before. Any may be lost with its link.
  mutating func run() {
    for page in drawStretches() where memory[page] != SimulatedMemory.poison {
      isPending[page] = true
    }
    while round < plan[.rounds] {
      round += 1
      if round > 1 {
        writePages()
        look()
      }
      sendRound()
    }
    // The last look, with the guest stopped.
    look()
    // For a source that does not wait for the ends of its rounds; else nothing is left.
    _ = deliver(isCutShort: false)
  }

  private mutating func sendRound() {
    let runs = pendingRuns()
    for run in runs { for page in run { isSent[page] = true } }
    let isBroken = random.chance(perMille: 250)
    let sentCount = isBroken ? random.number(in: 0..<runs.count + 1) : runs.count
    taken = [[], []]
    isStale = [Bool](repeating: false, count: memory.count)
    for (position, run) in runs.prefix(sentCount).enumerated() {
      if plan[.midway] > 0, random.chance(perMille: plan[.midway]) {
        writePages()
        if random.chance(perMille: 700) { lookMidway(untaken: runs[position...]) }
      }
      // Any connection: a round that has ended has come whole, so no seed overtakes a later one.
      let connection = random.number(in: 0..<2)
      for frame in frames(of: run) { queues[connection].append(frame) }
    }
    let isLate = mutation == .staleSeedAfterNewer
    let isWhole = deliver(isCutShort: isBroken || isLate)
    guard isBroken || !isWhole else {
      for run in runs {
        for page in run {
          isPending[page] = false
          isBrought[page] = true
        }
      }
      return countStale()
    }
    lose(runs)
    countStale()
    // The threads of that link had each read one more run when it broke.
    for run in runs.dropFirst(sentCount).prefix(2) { _ = frames(of: run) }
  }

  private mutating func countStale() {
    for page in memory.indices where isStale[page] { isPending[page] = true }
  }

  /// Most pages, in stretches as a guest uses them.
  private mutating func drawStretches() -> [Int] {
    var isChosen = false
    return memory.indices.filter { page in
      if page == 0 || random.chance(perMille: 250) { isChosen = random.chance(perMille: 650) }
      return isChosen
    }
  }

  private func pendingRuns() -> [Range<Int>] {
    var runs: [Range<Int>] = []
    for page in memory.indices where isPending[page] {
      if let last = runs.last, last.upperBound == page, last.count < Self.maximumRunPageCount {
        runs[runs.count - 1] = last.lowerBound..<page + 1
      } else {
        runs.append(page..<page + 1)
      }
    }
    return runs
  }

  // MARK: The source

  /// What goes of a run: neighbours of one kind in a frame.
  private mutating func frames(of run: Range<Int>) -> [SeedFrame] {
    var bases: [UInt32?] = []
    for page in run {
      bases.append(sentSeeds.version(of: page, round: round))
      sentSeeds.noteDigest(of: page, memory[page], round: round)
    }
    var frames: [SeedFrame] = []
    var start = run.lowerBound
    while start < run.upperBound {
      let kind = kind(of: start, bases[start - run.lowerBound])
      var end = start + 1
      while end < run.upperBound, self.kind(of: end, bases[end - run.lowerBound]) == kind {
        end += 1
      }
      let known = bases[start - run.lowerBound..<end - run.lowerBound].compactMap { $0 }
      frames.append(frame(of: start..<end, kind, since: known))
      start = end
    }
    return frames
  }

  private enum Kind { case zeros, same, known, unknown }

  private func kind(of page: Int, _ base: UInt32?) -> Kind {
    if memory[page] == 0 { return .zeros }
    guard let base else { return .unknown }
    return base == memory[page] ? .same : .known
  }

  /// The frame of one segment, which is noted as sent.
  private mutating func frame(
    of pages: Range<Int>, _ kind: Kind, since bases: [UInt32]
  ) -> SeedFrame {
    let content: SeedFrame.Content
    switch kind {
    case .zeros:
      content = .zeros
      if mutation != .deltaBaseBehindZeros { for page in pages { sentSeeds.forget(page) } }
    case .same:
      content = .same
      counts.samePageCount += pages.count
    case .known, .unknown:
      // Whether deltas pay, and whether to keep what is new here, depends on the link's rate.
      let isDelta = random.chance(perMille: 800) && kind == .known
      content = isDelta ? .delta(since: bases) : .whole
      if isDelta { counts.deltaPageCount += pages.count }
      let takesNew = random.chance(perMille: 900)
      for page in pages {
        sentSeeds.sent(page, memory[page], round: round, takesNew: takesNew)
      }
    }
    if isTracing { note("\(pages) go as \(content): \(Array(memory[pages]))") }
    return SeedFrame(pages: pages, versions: Array(memory[pages]), content: content)
  }

  /// The link is lost. Of what was sent the destination has taken in a part, and of a part of that
  /// the source was told, by credit: that need not be sent again.
  private mutating func lose(_ runs: [Range<Int>]) {
    var isTold = [Bool](repeating: false, count: memory.count)
    for connection in 0..<2 {
      let toldCount = random.number(in: 0..<taken[connection].count + 1)
      let told =
        mutation == .seedTakenWhenSent
        ? taken[connection][...] + queues[connection] : taken[connection].prefix(toldCount)
      for frame in told { for page in frame.pages { isTold[page] = true } }
    }
    for run in runs {
      for page in run {
        let isTakenForTold =
          mutation == .seedToldByEarlierRound && isBrought[page]
          || mutation == .sameWithoutBase && sentSeeds.isAsSent(page, memory[page])
        isPending[page] = !isTold[page] && !isTakenForTold
        isBrought[page] = !isPending[page]
      }
    }
    sentSeeds.lost(round: round, except: isTold)
    queues = [[], []]
    if isTracing { note("lost; \(isTold.count { $0 }) of its pages are told to be there") }
  }

  /// Writes of the guest. Whoever sees them logs them, whatever they have changed.
  private mutating func writePages() {
    for page in drawStretches() where isSent[page] {
      let before = memory[page]
      switch random.number(in: 0..<10) {
      case 0..<4:
        memory[page] = nextVersion
        nextVersion += 1
      case 4..<6: memory[page] = earlier[page]
      case 6..<8: memory[page] = 0
      default: break
      }
      if memory[page] != before { earlier[page] = before }
      isLogged[page] = true
    }
  }

  /// What the log tells between the rounds, or a comparison with what was sent.
  private mutating func look() {
    for page in memory.indices where isSent[page] {
      let isWritten =
        plan[.compared] == 0 ? isLogged[page] : !sentSeeds.isAsSent(page, memory[page])
      if isWritten { isPending[page] = true }
      isLogged[page] = false
    }
  }

  /// What it tells in the middle of a round: what nobody has taken yet is sent as it is now.
  private mutating func lookMidway(untaken runs: ArraySlice<Range<Int>>) {
    // All of the memory is not compared in the middle.
    guard plan[.compared] == 0 else { return }
    for page in memory.indices where isLogged[page] {
      isLogged[page] = false
      isStale[page] = isStale[page] || mutation != .midwayLookForgetsSent
    }
    for run in runs { for page in run { isStale[page] = false } }
  }

  // MARK: The way and the destination

  /// Brings what is on its way, mixed at random over the connections; false when the destination
  /// refuses a frame.
  private mutating func deliver(isCutShort: Bool) -> Bool {
    let frameCount = queues[0].count + queues[1].count
    let count = isCutShort ? random.number(in: 0..<frameCount + 1) : frameCount
    for _ in 0..<count {
      let drawn = random.number(in: 0..<2)
      let connection = queues[drawn].isEmpty ? 1 - drawn : drawn
      let frame = queues[connection][0]
      guard stage.take(frame, isFull: random.chance(perMille: plan[.stageFull])) else {
        if isTracing { note("the delta of \(frame.pages) is refused") }
        counts.refusedDeltaCount += 1
        return false
      }
      queues[connection].removeFirst()
      taken[connection].append(frame)
    }
    return true
  }

  private mutating func note(_ line: String) { trace.append("round \(round): \(line)") }
}
