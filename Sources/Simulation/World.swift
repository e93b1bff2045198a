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

  // The network. Directions are named by their sender.
  var nextConnection = 1
  var isBlackHoled = [false, false]
  /// The earliest arrival of the next packet, by sender and channel: TCP keeps the order.
  var arrivalFloors: [[UInt64]] = [[0, 0], [0, 0]]
  var acceptsLinks = [true, true]

  // The source's engine.
  var isListening = false
  var isServing = false
  var isPushing = false
  var isPushHeld = false
  var isPushScheduled = false
  var hasPushedAll = false
  var pushQueue: [Int] = []
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
  var hasSaidResident = false
  var seededVersions: [UInt32?]

  // The guest.
  var oracle: [UInt32]
  var isBeingRemoved: [Bool]
  var nextVersion: UInt32 = 1
  var vcpus: [SimulatedVCPU]

  init(seed: UInt64, mutation: Mutation?, isTracing: Bool) {
    self.mutation = mutation
    self.isTracing = isTracing
    random = SeededRandom(seed: seed)
    plan = SimulationPlan(&random)
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
    seededVersions = [UInt32?](repeating: nil, count: pageCount)
    vcpus = [SimulatedVCPU](repeating: SimulatedVCPU(), count: plan.vcpuCount + 1)
    if plan.isSeeded { seedMemory() }
  }

  /// Pages that an earlier round brought over while the VM ran; some will be stale at the freeze.
  private mutating func seedMemory() {
    for page in 0..<plan.pageCount where sourceMemory[page] != SimulatedMemory.poison {
      guard random.chance(perMille: 400) else { continue }
      seededVersions[page] = sourceMemory[page]
      _ = memory.fill(page, [sourceMemory[page]])
    }
    memory.wokenPages = []
  }

  /// The VMM's own accesses while it loads device state are made by one more vCPU.
  var loader: Int { plan.vcpuCount }

  mutating func run() {
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
  mutating func isTroubled(perMille: Int) -> Bool {
    let isDrawn = random.chance(perMille: perMille)
    return isDrawn && nanoseconds >= plan.calmNanoseconds
  }

  mutating func violate(_ property: String, _ finding: String) {
    guard violation == nil else { return }
    violation = Violation(property: property, finding: finding, nanoseconds: nanoseconds)
    note("VIOLATION \(property): \(finding)")
  }

  mutating func note(_ line: @autoclosure () -> String) {
    if isTracing { trace.append("\(nanoseconds / 1000) µs \(line())") }
  }

  /// P1, on every step; the other properties are checked where they could break.
  private mutating func check() {
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

  private mutating func happen(_ happening: Happening) {
    if isTracing { noteHappening(happening) }
    switch happening {
    case .sourceHears(let event, let life):
      if isCurrent(.source, life) { feedSource(event) }
    case .destinationHears(let event, let life):
      if isCurrent(.destination, life) { feedDestination(event) }
    case .timer(let side, let index, let generation, let life):
      timerRanOut(side, index: index, generation: generation, life: life)
    case .journalWritten(let side, let index, let life):
      if isCurrent(side, life) { journalWritten(side, index: index) }
    case .vmmActs(.source): sourceVMMActs()
    case .vmmActs(.destination): destinationVMMActs()
    case .arrives(let packet, let side, let connection):
      if hosts[side.rawValue].connection == connection { arrive(packet, at: side) }
    case .dial(let life): dial(life: life)
    case .welcomed(let connection, let life, let welcome):
      welcomed(connection: connection, life: life, welcome)
    case .notices(let side, let connection): notice(side, connection: connection)
    case .push(let life): push(life: life)
    case .handlerReads(let life): handlerReads(life: life)
    case .installs(let life): install(life: life)
    case .sourceGuestActs: sourceGuestActs()
    case .vcpuActs(let vcpu): vcpuActs(vcpu)
    case .faultQueues(let vcpu, let page): queueFault(vcpu, page: page)
    case .zap(let vcpu): zap(vcpu)
    case .discardsEnd(let life): discardsEnd(life: life)
    case .linkBreaks: breakLink()
    case .crash(let side): crash(side)
    case .restart(let side): restart(side)
    case .selfResume: selfResume()
    case .destinationVMDies: destinationVMDies()
    case .memoryLost: loseSourceMemory()
    case .operatorActs(let side, let parks): operatorActs(side, parks: parks)
    case .heal: heal()
    case .supervise: supervise()
    }
  }

  /// Traces what is worth reading; the steps of the engines would hide it.
  private mutating func noteHappening(_ happening: Happening) {
    switch happening {
    case .vcpuActs, .sourceGuestActs, .faultQueues, .push, .installs, .handlerReads, .sourceHears,
      .destinationHears, .supervise, .dial:
      break
    case .timer, .journalWritten, .vmmActs, .arrives, .welcomed, .notices, .zap, .discardsEnd,
      .linkBreaks, .crash, .restart, .selfResume, .destinationVMDies, .memoryLost, .operatorActs,
      .heal:
      note("\(happening)")
    }
  }

  func isCurrent(_ side: Side, _ life: Int) -> Bool {
    hosts[side.rawValue].isAlive && hosts[side.rawValue].life == life
  }

  private mutating func timerRanOut(_ side: Side, index: Int, generation: Int, life: Int) {
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
