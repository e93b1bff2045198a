import Simulation
import Testing

@Suite("Shrinking a failing seed")
struct ShrinkingTests {
  @Test("what is left still breaks the same property, with less trouble, each time the same")
  func shrinks() throws {
    for mutation in [Mutation.goBeforeLog, .overwriteOnExisting, .halfMapApplied] {
      let caught = try #require(
        Simulation.firstSeedThatCatches(mutation, within: SimulationTests.seedBudget))
      let shrunken = try #require(Simulation.shrink(seed: caught.seed, mutation: mutation))
      let again = Simulation.run(
        seed: caught.seed, mutation: mutation, changes: shrunken.changes)
      #expect(again.violation == shrunken.report.violation)
      #expect(again.violation?.property == caught.violation?.property)
      #expect(!shrunken.changes.isEmpty)
      #expect(shrunken.runCount <= 400)
      let second = try #require(Simulation.shrink(seed: caught.seed, mutation: mutation))
      #expect(second.changes == shrunken.changes)
    }
  }

  @Test("trouble that has no part in a failure is taken away")
  func takesAway() throws {
    var changes = PlanChanges()
    changes[.duplicate] = 100
    changes[.stalls] = 2
    changes[.removal] = 100
    let shrunken = try #require(
      Simulation.shrink(seed: 1, mutation: .freeBeforeAcknowledgement, changes: changes))
    #expect(shrunken.changes[.duplicate] == 0)
    #expect(shrunken.changes[.stalls] == 0)
    #expect(shrunken.changes[.removal] == 0)
    #expect(shrunken.changes[.vcpus] == 1 || shrunken.changes[.pages] == 4)
  }

  @Test("a seed that breaks nothing is not shrunk")
  func nothingToShrink() {
    #expect(Simulation.shrink(seed: 1) == nil)
  }

  @Test("changes are written as they are read, and what is no plan is refused")
  func planText() throws {
    let changes = try #require(PlanChanges("pages=4,drop=0,falseOaths=1"))
    #expect(changes[.pages] == 4 && changes[.drop] == 0 && changes[.stalls] == nil)
    #expect(PlanChanges(changes.description) == changes)
    #expect(PlanChanges("")?.isEmpty == true)
    for text in [
      "pages", "pages=", "pages=3", "pages=65", "vcpus=0", "drop=1001", "drop=-1", "budget=1",
      "moons=1", "pages=four", "=4",
    ] {
      #expect(PlanChanges(text) == nil, "\(text)")
    }
  }
}
