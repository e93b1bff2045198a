import Migration
import Simulation
import Testing

@Suite("Both cores and the page ledger under simulated trouble")
struct SimulationTests {
  @Test("the first seeds hold P1 to P7 on every step and converge in liveness mode")
  func seedsHold() {
    for seed: UInt64 in 1...200 {
      let report = Simulation.run(seed: seed)
      guard let violation = report.violation else { continue }
      let trace = Simulation.run(seed: seed, isTracing: true).trace.joined(separator: "\n")
      Issue.record("seed \(seed) breaks \(violation)\n\(trace)")
      return
    }
  }

  @Test("a seed gives the same digest and the same trace each time, with and without tracing")
  func determinism() {
    for seed: UInt64 in [1, 77, 4711] {
      let first = Simulation.run(seed: seed, isTracing: true)
      let second = Simulation.run(seed: seed, isTracing: true)
      let silent = Simulation.run(seed: seed)
      #expect(first.trace == second.trace)
      #expect(first.digest == second.digest)
      #expect(first.digest == silent.digest, "looking does not change what happens")
      #expect(silent.trace.isEmpty)
    }
    #expect(Simulation.run(seed: 1).digest != Simulation.run(seed: 2).digest)
  }

  @Test("the sweep reaches every state of both cores and every fate")
  func coverage() {
    var sourceStates: Set<SourceState> = []
    var destinationStates: Set<DestinationState> = []
    var fates: Set<Fate> = []
    // The rarest state (the append of HANDED_OFF fails unclearly) takes most of them.
    for seed: UInt64 in 1...3000 {
      let report = Simulation.run(seed: seed)
      sourceStates.formUnion(report.sourceStates)
      destinationStates.formUnion(report.destinationStates)
      fates.insert(report.fate)
      if sourceStates.count == SourceState.allCases.count,
        destinationStates.count == DestinationState.allCases.count, fates.count == 3
      {
        break
      }
    }
    let missedBySource = SourceState.allCases.filter { !sourceStates.contains($0) }
    let missedByDestination = DestinationState.allCases.filter { !destinationStates.contains($0) }
    #expect(missedBySource == [])
    #expect(missedByDestination == [])
    #expect(fates == [.moved, .stayed, .died])
  }

  /// The sweep must come to what it is there for, not only pass by.
  @Test("links are lost in silence, made again and superseded, and sources are fenced")
  func troubleStrikes() {
    var reconnectCount = 0
    var supersededCount = 0
    var silenceCount = 0
    var fencedCount = 0
    // A fence takes a host that is destroyed at the right moment: one in some hundred seeds.
    for seed: UInt64 in 1...5000 {
      if seed > 1000, fencedCount > 2 { break }
      let report = Simulation.run(seed: seed)
      reconnectCount += report.reconnectCount
      supersededCount += report.supersededCount
      silenceCount += report.silenceCount
      fencedCount += report.isFenced ? 1 : 0
    }
    #expect(reconnectCount > 500)
    #expect(supersededCount > 20)
    #expect(silenceCount > 200)
    #expect(fencedCount > 2)
  }

  /// Twice what each needs today; a mutation that takes more has become harder to see.
  static let seedBudget: UInt64 = 3000

  @Test("every built-in mutation is caught", arguments: Mutation.allCases)
  func mutationIsCaught(mutation: Mutation) throws {
    let caught = Simulation.firstSeedThatCatches(mutation, within: Self.seedBudget)
    let report = try #require(caught, "\(mutation) went unnoticed in \(Self.seedBudget) seeds")
    #expect(
      Simulation.run(seed: report.seed).violation == nil,
      "the same seed holds without the mutation")
    let traced = Simulation.run(seed: report.seed, mutation: mutation, isTracing: true)
    #expect(traced.violation == report.violation)
    #expect(traced.trace.contains { $0.contains("VIOLATION") })
  }

  /// A wrong page is seen when it is read or when COMPLETE is judged, whichever comes first.
  @Test(
    "a mutation is caught by the property that it breaks",
    arguments: [
      (Mutation.overwriteOnExisting, ["P2"]), (.sourceResumesOnTimeout, ["P1"]),
      (.removedRefetched, ["P3", "P4"]), (.missingDiscard, ["P3", "P4"]),
      (.freeBeforeAcknowledgement, ["P5"]), (.stagedCountedResident, ["P4"]),
      (.existingNotWoken, ["P6"]), (.pendingFaultNotResent, ["P6"]),
      (.staleSeedAfterNewer, ["P3", "P4"]), (.seedTakenWhenSent, ["P3", "P4", "P6"]),
      (.seedToldByEarlierRound, ["P3", "P4", "P6"]),
      (.midwayLookForgetsSent, ["P3", "P4"]),
      (.deltaBaseOfLostRound, ["P3", "P4"]), (.lateSeedRemembered, ["P3", "P4"]),
      (.sameWithoutBase, ["P3", "P4"]), (.deltaBaseBehindZeros, ["P3", "P4"]),
      (.staleSeedBesideDelta, ["P3", "P4"]), (.missingNotAskedFor, ["P6"]),
      (.halfRunInstalled, ["P3", "P4"]),
      (.fencedWithoutRecord, ["P1"]), (.halfMapApplied, ["P6", "order"]),
      (.lossNeverNoticed, ["P7"]),
      (.silenceNotDoubted, ["P7"]), (.pushBeforeMap, ["order"]),
      (.supersededHandled, ["order"]), (.allHereTooEarly, ["fill"]),
    ])
  func caughtByTheRightProperty(mutation: Mutation, properties: [String]) throws {
    let report = Simulation.firstSeedThatCatches(mutation, within: Self.seedBudget)
    let property = try #require(report?.violation?.property)
    #expect(properties.contains(property))
  }
}
