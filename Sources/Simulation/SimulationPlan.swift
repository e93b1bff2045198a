internal import Migration
internal import Wire

/// What one seed does to a migration: sizes, mode, and which kinds of trouble there are.
///
/// Swarm testing: a seed switches many kinds fully off, so that rare mixes occur.
struct SimulationPlan {
  /// By the knob's raw value.
  private var values = [Int](repeating: 0, count: PlanKnob.allCases.count)

  subscript(knob: PlanKnob) -> Int {
    get { values[knob.rawValue] }
    set { values[knob.rawValue] = newValue }
  }

  var pageCount: Int { self[.pages] }
  var vcpuCount: Int { self[.vcpus] }
  var mode: MigrationMode {
    if self[.quick] != 0 { return .quick }
    guard isSeeded else { return .postCopy }
    return self[.preCopy] != 0 ? .preCopy : .hybrid
  }
  /// What ends the rounds: with `fits`, all memory is to be there before the VM runs in pre-copy.
  var switchReason: SwitchReason { self[.fits] != 0 ? .fits : .told }
  var memory: MemoryKind { self[.shared] == 0 ? .privateAnonymous : .shared }
  /// Whether pages were seeded while the VM still ran, so that there is something to discard.
  var isSeeded: Bool { self[.seeded] != 0 && self[.quick] == 0 }
  /// The edges of this run never reconnect: a lost link is final until the process is restarted.
  var isLossFinal: Bool { self[.finalLoss] != 0 }
  /// Nothing goes wrong before this moment; half of the seeds have their trouble late.
  var calmNanoseconds: UInt64 { UInt64(self[.calm]) * 1000 }
  /// New trouble begins in this span; a hand-over takes about 3 ms and a whole migration 6.
  var troubleNanoseconds: UInt64 { UInt64(self[.trouble]) * 1000 }
  var budgetNanoseconds: UInt64 { UInt64(self[.budget]) * 1000 }

  /// When the safety mode ends and the liveness mode begins.
  var healNanoseconds: UInt64 { calmNanoseconds + troubleNanoseconds + 2_000_000 }

  var sourceLimits: SourceLimits {
    SourceLimits(
      handOverNanoseconds: self[.handOverLimit] != 0 ? 15_000_000 : nil,
      lingerNanoseconds: 10_000_000, giveUpNanoseconds: self[.giveUp] != 0 ? 8_000_000 : nil,
      giveUpRoundsNanoseconds: 20_000_000)
  }

  var destinationLimits: DestinationLimits {
    DestinationLimits(
      giveUpBeforeGoNanoseconds: 12_000_000,
      giveUpNanoseconds: self[.giveUp] != 0 ? 8_000_000 : nil, lingerNanoseconds: 10_000_000)
  }

  /// Draws every number, also of what is changed afterwards.
  init(_ random: inout SeededRandom, changes: PlanChanges) {
    drawMigration(&random)
    drawRates(&random)
    drawCounts(&random)
    for knob in PlanKnob.allCases {
      if let value = changes[knob] { self[knob] = value }
    }
  }

  /// A plan without any trouble, to which a script adds its own.
  static func calm(_ random: inout SeededRandom, changes: PlanChanges) -> SimulationPlan {
    var plan = SimulationPlan(&random, changes: PlanChanges())
    for knob in PlanKnob.allCases where knob.rawValue >= PlanKnob.drop.rawValue { plan[knob] = 0 }
    plan[.finalLoss] = 0
    plan[.giveUp] = 0
    plan[.calm] = 0
    for knob in PlanKnob.allCases {
      if let value = changes[knob] { plan[knob] = value }
    }
    return plan
  }

  private mutating func drawMigration(_ random: inout SeededRandom) {
    self[.pages] = random.number(in: 8..<65)
    self[.vcpus] = random.number(in: 1..<4)
    self[.quick] = random.chance(perMille: 300) ? 1 : 0
    self[.shared] = random.chance(perMille: 400) ? 1 : 0
    self[.seeded] = random.chance(perMille: 400) ? 1 : 0
    self[.finalLoss] = random.chance(perMille: 200) ? 1 : 0
    self[.handOverLimit] = random.chance(perMille: 800) ? 1 : 0
    self[.giveUp] = random.chance(perMille: 300) ? 1 : 0
    self[.calm] = random.chance(perMille: 500) ? 0 : random.number(in: 0..<8000)
    self[.trouble] = 8000
    self[.budget] = random.number(in: 2000..<4001)
  }

  private mutating func drawRates(_ random: inout SeededRandom) {
    func rate(_ most: Int, _ random: inout SeededRandom) -> Int {
      random.chance(perMille: 500) ? random.number(in: 1..<most + 1) : 0
    }
    self[.drop] = rate(30, &random)
    self[.duplicate] = rate(100, &random)
    self[.reorder] = rate(200, &random)
    self[.crash] = rate(12, &random)
    self[.journal] = random.chance(perMille: 400) ? rate(300, &random) : 0
    self[.vmm] = random.chance(perMille: 400) ? rate(300, &random) : 0
    self[.removal] = rate(150, &random)
    self[.partialCopy] = rate(300, &random)
    self[.redelivery] = rate(200, &random)
    self[.relapse] = random.chance(perMille: 400) ? rate(600, &random) : 0
  }

  private mutating func drawCounts(_ random: inout SeededRandom) {
    func count(_ most: Int, perMille: Int, _ random: inout SeededRandom) -> Int {
      random.chance(perMille: perMille) ? random.number(in: 1..<most + 1) : 0
    }
    self[.breaks] = count(4, perMille: 500, &random)
    self[.partitions] = count(3, perMille: 350, &random)
    self[.stalls] = count(3, perMille: 350, &random)
    self[.crashes] = count(3, perMille: 500, &random)
    self[.operators] = count(3, perMille: 300, &random)
    self[.selfResumes] = count(1, perMille: 200, &random)
    self[.memoryLosses] = count(1, perMille: 50, &random)
    self[.vmDeaths] = count(1, perMille: 60, &random)
    self[.hostDeaths] = count(1, perMille: 60, &random)
    // From numbers of their own: what came later leaves all that a seed has meant before as it was.
    var copy = random
    var later = SeededRandom(seed: ~copy.next())
    self[.preCopy] = later.chance(perMille: 400) ? 1 : 0
    self[.fits] = later.chance(perMille: 700) ? 1 : 0
    self[.rounds] = later.number(in: 2..<6)
    self[.cache] =
      later.chance(perMille: 200) ? 0 : min(self[.pages], later.number(in: 1..<129))
    self[.compared] = later.chance(perMille: 300) ? 1 : 0
    self[.stageFull] = later.chance(perMille: 500) ? later.number(in: 1..<301) : 0
    self[.midway] = later.chance(perMille: 500) ? later.number(in: 1..<501) : 0
    // Somebody who swears what is not so breaks P1, whatever we do: never by a seed alone.
    self[.falseOaths] = 0
  }

  /// The liveness mode: no new trouble of any kind.
  mutating func heal() {
    for knob in PlanKnob.allCases where knob.rawValue >= PlanKnob.drop.rawValue { self[knob] = 0 }
    self[.finalLoss] = 0
  }
}
