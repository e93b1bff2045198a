import Simulation
import Testing

/// What the source does not send of a page is right only if it knows what the destination has.
@Suite("Deltas and unsent pages in the simulated rounds")
struct RoundTests {
  private static func sum(
    _ seeds: ClosedRange<UInt64>, mutation: Mutation? = nil, _ changes: [(PlanKnob, Int)] = []
  ) -> SeedCounts {
    var plan = PlanChanges()
    plan[.seeded] = 1
    plan[.quick] = 0
    for (knob, value) in changes { plan[knob] = value }
    return seeds.reduce(into: SeedCounts()) { sum, seed in
      sum.add(Simulation.run(seed: seed, mutation: mutation, changes: plan).seedCounts)
    }
  }

  @Test("pages go as deltas, are the same, and are missing; no delta has another base")
  func strikes() {
    let counts = Self.sum(1...200)
    #expect(counts.deltaPageCount > 300)
    #expect(counts.samePageCount > 200)
    #expect(counts.sweptPageCount > 20)
    #expect(counts.refusedDeltaCount == 0)
  }

  @Test("without a cache every seed goes whole")
  func turnedOff() {
    let counts = Self.sum(1...100, [(.cache, 0)])
    #expect(counts.deltaPageCount == 0 && counts.samePageCount == 0)
  }

  /// A page that has changed since goes as a delta against what the destination has not; only one
  /// that has not changed does harm.
  @Test(
    "a delta against another base than the destination has is refused by its checksum",
    arguments: [Mutation.deltaBaseOfLostRound, .lateSeedRemembered])
  func refused(mutation: Mutation) {
    #expect(Self.sum(1...200, mutation: mutation).refusedDeltaCount > 10)
  }

  @Test(
    "what a mutation of the cache breaks holds without a cache",
    arguments: [
      Mutation.deltaBaseOfLostRound, .lateSeedRemembered, .deltaBaseBehindZeros,
      .staleSeedBesideDelta,
    ])
  func cacheIsTheCause(mutation: Mutation) throws {
    let caught = try #require(
      Simulation.firstSeedThatCatches(mutation, within: SimulationTests.seedBudget))
    let shrunken = try #require(Simulation.shrink(seed: caught.seed, mutation: mutation))
    #expect(shrunken.changes[.cache] != 0)
    var changes = shrunken.changes
    changes[.cache] = 0
    #expect(
      Simulation.run(seed: caught.seed, mutation: mutation, changes: changes).violation == nil)
  }
}
