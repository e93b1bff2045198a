internal import Migration
internal import Wire

/// What one seed does to a migration: sizes, mode, and which kinds of trouble there are.
///
/// Swarm testing: a seed switches many kinds fully off, so that rare mixes occur.
struct SimulationPlan {
  var pageCount: Int
  var vcpuCount: Int
  var mode: MigrationMode
  var memory: MemoryKind
  /// Whether pages were seeded while the VM still ran, so that there is something to discard.
  var isSeeded: Bool
  /// The edges of this run never reconnect: a lost link is final until the process is restarted.
  var isLossFinal: Bool
  var sourceLimits: SourceLimits
  var destinationLimits: DestinationLimits

  /// Nothing goes wrong before this moment; half of the seeds have their trouble late.
  var calmNanoseconds: UInt64

  var dropPerMille: Int
  var duplicatePerMille: Int
  var reorderPerMille: Int
  var crashPerMille: Int
  var journalFailurePerMille: Int
  var vmmFailurePerMille: Int
  var removalPerMille: Int
  var partialCopyPerMille: Int
  var faultRedeliveryPerMille: Int
  var linkBreakCount: Int
  var crashCount: Int
  var operatorCount: Int
  var selfResumeCount: Int
  var memoryLossCount: Int
  var doesDestinationVMDie: Bool

  /// Trouble is drawn from this span; a hand-over takes about 3 ms and a whole migration 6.
  static let troubleNanoseconds: UInt64 = 8_000_000

  /// When the healthy tail begins.
  var healNanoseconds: UInt64 { calmNanoseconds + Self.troubleNanoseconds + 2_000_000 }

  init(_ random: inout SeededRandom) {
    func rate(_ most: Int, _ random: inout SeededRandom) -> Int {
      random.chance(perMille: 500) ? random.number(in: 1..<most + 1) : 0
    }
    pageCount = random.number(in: 8..<65)
    vcpuCount = random.number(in: 1..<4)
    mode = random.chance(perMille: 700) ? .postCopy : .quick
    memory = random.chance(perMille: 600) ? .privateAnonymous : .shared
    isSeeded = random.chance(perMille: 400)
    isLossFinal = random.chance(perMille: 250)
    let canGiveUp = random.chance(perMille: 300)
    sourceLimits = SourceLimits(
      handOverNanoseconds: random.chance(perMille: 800) ? 15_000_000 : nil,
      lingerNanoseconds: 10_000_000, giveUpNanoseconds: canGiveUp ? 8_000_000 : nil)
    destinationLimits = DestinationLimits(
      giveUpBeforeGoNanoseconds: 12_000_000, giveUpNanoseconds: canGiveUp ? 8_000_000 : nil,
      lingerNanoseconds: 10_000_000)
    calmNanoseconds =
      random.chance(perMille: 500) ? 0 : random.nanoseconds(in: 0..<8_000_000)
    dropPerMille = rate(30, &random)
    duplicatePerMille = rate(100, &random)
    reorderPerMille = rate(200, &random)
    crashPerMille = rate(12, &random)
    journalFailurePerMille = random.chance(perMille: 400) ? rate(300, &random) : 0
    vmmFailurePerMille = random.chance(perMille: 400) ? rate(300, &random) : 0
    removalPerMille = rate(150, &random)
    partialCopyPerMille = rate(300, &random)
    faultRedeliveryPerMille = rate(200, &random)
    linkBreakCount = rate(4, &random)
    crashCount = rate(3, &random)
    operatorCount = random.chance(perMille: 300) ? random.number(in: 1..<4) : 0
    selfResumeCount = random.chance(perMille: 200) ? 1 : 0
    memoryLossCount = random.chance(perMille: 50) ? 1 : 0
    doesDestinationVMDie = random.chance(perMille: 60)
  }

  /// Turns every trouble off: the healthy tail, in which everything must converge.
  mutating func heal() {
    dropPerMille = 0
    duplicatePerMille = 0
    reorderPerMille = 0
    crashPerMille = 0
    journalFailurePerMille = 0
    vmmFailurePerMille = 0
    partialCopyPerMille = 0
    removalPerMille = 0
    faultRedeliveryPerMille = 0
    isLossFinal = false
  }
}
