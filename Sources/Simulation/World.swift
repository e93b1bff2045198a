internal import Migration
internal import Pages
internal import Wire

/// Two hosts, a network, two VMMs and a guest, in virtual time; everything follows from the seed.
///
/// The *oracle* is the memory of the one VM that there ought to be: whoever runs writes it, and
/// whatever anyone reads is compared with it. It finds two runners, lost updates and stale pages
/// alike, without knowing how the protocol works.
struct World {
  /// After the trouble ends, everything must have come to an end by then.
  static let tailNanoseconds: UInt64 = 600_000_000
  /// Some fifty times what a seed needs: an endless loop is a finding, not a hang.
  static let maximumStepCount = 200_000

  let mutation: Mutation?
  let isTracing: Bool
  /// Hears each line of the trace as it comes: a broken invariant stops the process before the end.
  var observer: ((String) -> Void)?
  var plan: SimulationPlan
  var random: SeededRandom
  var agenda = Agenda()
  var nanoseconds: UInt64 = 0
  var stepCount = 0
  var digest: UInt64 = 0xcbf2_9ce4_8422_2325
  var trace: [String] = []
  var violation: Violation?
  var fate: Fate?
  var hasHealed = false
  var isSupervised = false
  var quietSuperviseCount = 0
  /// One bit for each state that a core has been in after an event, by side.
  var visited: [UInt64] = [0, 0]

  var hosts = [SimulatedProcess(), SimulatedProcess()]
  var sourceCore: SourceCore
  var sourceEffects = EffectQueue<SourceEffect>()
  var sourceJournal = SimulatedJournal<SourceRecord>()
  var sourceVMM = SimulatedVMM(isRunning: true)
  var destinationCore: DestinationCore
  var destinationEffects = EffectQueue<DestinationEffect>()
  var destinationJournal = SimulatedJournal<DestinationRecord>()
  var destinationVMM = SimulatedVMM(isRunning: false)
  var hasDestinationRun = false
  var hasSourceResumed = false
  var hasDestinationVMDied = false

  var isDestinationDestroyed = false
  var isFencing = false
  var isOathHonoured = false

  // The network.
  var network = SimulatedNetwork()
  var acceptsLinks = [true, true]
  /// The connection on which the destination waits for a welcome.
  var dialled: Int?
  var helloArrival: UInt64 = 0
  var reconnectCount = 0
  var supersededCount = 0
  var silenceCount = 0
  var diallingProgress = DestinationProgress.unknown
  var diallingKnowsSession = false
  /// What the script still wants.
  var script: [HandOverFault]
  var reachedFaults: [HandOverFault] = []

  // The source's engine.
  var isListening = false
  var isServing = false
  var isPushing = false
  var isPushHeld = false
  var isPushScheduled = false
  var pushQueue: [Int] = []
  /// The destination was told on this link that everything has been pushed.
  var isPushFinished = false
  /// What the whole resident map of this link left to push.
  var isPushable: [Bool]
  /// What has come of a map that is not whole yet.
  var toldResident: [Bool] = []
  var isReturnLink = false
  var isDeviceStateHeld = false
  var isMemoryReleased = false
  var sourceMemory: [UInt32]
  var isSourceGuestScheduled = false

  // The destination's engine.
  var memory: SimulatedMemory
  /// What the mapped page-state file holds while no process has it open; nil before faults began.
  var recordedStates: [UInt8]?
  var ledger: PageLedger<PageStateArray>?
  var staged: [Packet] = []
  var isInstallScheduled = false
  var isHandlerScheduled = false
  var hasSaidHere = false
  var hasSaidResident = false
  var seededVersions: [UInt32?]
  /// Which run of rounds counts: each link of the rounds has one of its own.
  var seedRun = 0
  /// The rounds have paused the VM for a look, and it is not resumed yet: it outlives processes.
  var isPausedForLook = false
  /// What the rounds bring to a destination, by page: 0 is zeros, nil is missing.
  var seeds: [UInt32?]
  /// Seeds that the destination's process holds.
  var stage: [UInt32?]
  var seedCounts = SeedCounts()
  /// The first bytes of a run whose last have not come.
  var halfRun: (start: Int, versions: [UInt32])?
  /// A link was made again and the source was not told yet what is here.
  var isMapDue = false
  /// The connection on which it was told.
  var mappedConnection: Int?
  var requestedOnLink: [Bool]

  // The guest.
  var oracle: [UInt32]
  var isBeingRemoved: [Bool]
  var nextVersion: UInt32 = 1
  var vcpus: [SimulatedVCPU]

  /// A world of that seed; with a script its faults are the only trouble.
  init(
    seed: UInt64, mutation: Mutation?, changes: PlanChanges, script: [HandOverFault]? = nil,
    isTracing: Bool
  ) {
    self.mutation = mutation
    self.isTracing = isTracing
    self.script = script ?? []
    random = SeededRandom(seed: seed)
    plan =
      script == nil
      ? SimulationPlan(&random, changes: changes)
      : SimulationPlan.calm(&random, changes: changes)
    let pageCount = plan.pageCount
    sourceCore = SourceCore(
      session: SessionID(high: seed, low: seed), epoch: Epoch(rawValue: 0), mode: plan.mode,
      limits: plan.sourceLimits)
    destinationCore = DestinationCore(limits: plan.destinationLimits)
    memory = SimulatedMemory(pageCount: pageCount)
    sourceMemory = [UInt32](repeating: 0, count: pageCount)
    for page in 0..<pageCount where random.chance(perMille: 700) {
      sourceMemory[page] = nextVersion
      nextVersion += 1
    }
    if random.chance(perMille: 200) {
      sourceMemory[random.number(in: 0..<pageCount)] = SimulatedMemory.poison
    }
    oracle = sourceMemory
    isBeingRemoved = [Bool](repeating: false, count: pageCount)
    isPushable = [Bool](repeating: true, count: pageCount)
    requestedOnLink = [Bool](repeating: false, count: pageCount)
    seededVersions = [UInt32?](repeating: nil, count: pageCount)
    seeds = seededVersions
    stage = seededVersions
    vcpus = [SimulatedVCPU](repeating: SimulatedVCPU(), count: plan.vcpuCount + 1)
  }

  /// The VMM's own accesses while it loads device state are made by one more vCPU.
  var loader: Int { plan.vcpuCount }

  mutating func run() {
    if plan.isSeeded { seedMemory() }
    scheduleTrouble()
    startSource()
    startDestination()
    scheduleSourceGuest()
    while violation == nil, fate == nil, let next = agenda.next() {
      nanoseconds = next.nanoseconds
      stepCount += 1
      happen(next.happening)
      check()
      stir(nanoseconds)
      stir(
        UInt64(sourceCore.state.rawValue) << 8 | UInt64(destinationCore.state.rawValue))
      if stepCount > Self.maximumStepCount
        || nanoseconds > plan.healNanoseconds + Self.tailNanoseconds
      {
        violate(
          "P6",
          "no end: source \(sourceCore.state), destination \(destinationCore.state), "
            + "\(vcpus.count { $0.pendingPage != nil }) vCPUs wait")
      }
    }
    stir(random.next())
  }

  private mutating func stir(_ value: UInt64) {
    digest = (digest ^ value) &* 0x0000_0100_0000_01b3
  }

  mutating func schedule(_ happening: Happening, within range: Range<UInt64>) {
    agenda.add(happening, at: nanoseconds + random.nanoseconds(in: range))
  }

  /// Draws for one kind of trouble.
  mutating func isTroubled(_ knob: PlanKnob) -> Bool {
    let isDrawn = random.chance(perMille: plan[knob])
    return isDrawn && nanoseconds >= plan.calmNanoseconds
  }

  mutating func violate(_ property: String, _ finding: String) {
    guard violation == nil else { return }
    violation = Violation(property: property, finding: finding, nanoseconds: nanoseconds)
    note("VIOLATION \(property): \(finding)")
  }

  mutating func note(_ line: @autoclosure () -> String) {
    guard isTracing else { return }
    trace.append("\(nanoseconds / 1000) µs \(line())")
    observer?(trace[trace.count - 1])
  }

  /// P1 and P7, on every step; the other properties are checked where they could break.
  private mutating func check() {
    checkDetection()
    if sourceVMM.isRunning && destinationVMM.isRunning {
      violate("P1", "the VM runs on both hosts")
    }
    if sourceVMM.isRunning && hasDestinationRun {
      violate("P1", "the VM runs at the source although it has run at the destination")
    }
    if hasSourceResumed && hasDestinationRun {
      violate("P1", "the VM has run on both hosts since the freeze")
    }
    if memory.overwriteCount > 0 { violate("P2", "a page that was there was overwritten") }
  }

  func isCurrent(_ side: Side, _ life: Int) -> Bool {
    hosts[side.rawValue].isAlive && hosts[side.rawValue].life == life
  }

  mutating func timerRanOut(_ side: Side, index: Int, generation: Int, life: Int) {
    guard isCurrent(side, life), hosts[side.rawValue].timerGenerations[index] == generation else {
      return
    }
    switch side {
    case .source:
      guard let timer = SourceTimer(rawValue: UInt8(index)) else { return }
      feedSource(.timer(timer))
    case .destination:
      guard let timer = DestinationTimer(rawValue: UInt8(index)) else { return }
      feedDestination(.timer(timer))
    }
  }

  mutating func arm(_ side: Side, _ index: Int, at instant: Instant) {
    hosts[side.rawValue].timerGenerations[index] += 1
    agenda.add(
      .timer(
        side, index: index, generation: hosts[side.rawValue].timerGenerations[index],
        life: hosts[side.rawValue].life), at: instant.nanoseconds)
  }
}
