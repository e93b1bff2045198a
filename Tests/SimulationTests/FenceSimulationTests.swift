import Simulation
import Testing

/// An operator swears that the destination is dead.
@Suite("The fence in the simulation")
struct FenceSimulationTests {
  @Test("a true oath brings the VM back at the source, and breaks nothing")
  func trueOath() {
    var changes = PlanChanges()
    changes[.hostDeaths] = 1
    changes[.quick] = 0
    var fencedCount = 0
    for seed: UInt64 in 1...1000 {
      let report = Simulation.run(seed: seed, changes: changes)
      #expect(report.violation == nil, "seed \(seed): \(report.violation?.description ?? "")")
      guard report.isFenced else { continue }
      fencedCount += 1
      #expect(report.fate == .stayed, "seed \(seed)")
    }
    #expect(fencedCount > 20)
  }

  @Test("a false oath breaks P1, and nothing else does: no seed swears one by itself")
  func falseOath() {
    var changes = PlanChanges()
    changes[.falseOaths] = 1
    var brokenCount = 0
    for seed: UInt64 in 1...400 {
      #expect(Simulation.run(seed: seed).violation == nil, "seed \(seed) without the oath")
      let report = Simulation.run(seed: seed, changes: changes)
      guard let violation = report.violation else { continue }
      brokenCount += 1
      #expect(report.isFenced, "seed \(seed): \(violation)")
    }
    #expect(brokenCount > 5)
  }
}
