import Simulation
import Testing

/// One kind of trouble at a time, so that none hides behind another.
@Suite("Lost links in the simulation")
struct LinkTests {
  /// A migration without trouble but for what `changes` adds; post-copy, whose tail needs the link.
  private static func plan(_ changes: [(PlanKnob, Int)]) -> PlanChanges {
    var plan = PlanChanges()
    let troubles: [PlanKnob] = [
      .drop, .duplicate, .reorder, .crash, .journal, .vmm, .removal, .partialCopy, .redelivery,
      .relapse, .stageFull, .breaks, .partitions, .stalls, .crashes, .operators, .selfResumes,
      .memoryLosses, .vmDeaths, .hostDeaths,
    ]
    for knob in troubles { plan[knob] = 0 }
    plan[.quick] = 0
    plan[.finalLoss] = 0
    plan[.giveUp] = 0
    for (knob, value) in changes { plan[knob] = value }
    return plan
  }

  @Test("without trouble no link is given up, and the VM moves")
  func calm() {
    for seed: UInt64 in 1...50 {
      let report = Simulation.run(seed: seed, changes: Self.plan([]))
      #expect(report.violation == nil)
      #expect(report.fate == .moved, "seed \(seed)")
      #expect(report.silenceCount == 0, "seed \(seed)")
    }
  }

  @Test(
    "every kind of loss is noticed, and after the hand-over it heals by itself",
    arguments: [PlanKnob.breaks, .partitions, .stalls])
  func healing(knob: PlanKnob) {
    var silenceCount = 0
    var reconnectCount = 0
    for seed: UInt64 in 1...200 {
      // The calm carries most of them over the hand-over, and not to the last page.
      let report = Simulation.run(
        seed: seed, changes: Self.plan([(knob, 4), (.calm, 4000), (.pages, 64), (.relapse, 500)]))
      #expect(report.violation == nil, "seed \(seed): \(report.violation?.description ?? "")")
      silenceCount += report.silenceCount
      reconnectCount += report.reconnectCount
    }
    #expect(silenceCount > 20)
    #expect(reconnectCount > 20)
  }

  @Test("a process that is stopped between two looks at its link looks at what came meanwhile")
  func stoppedBetweenLooks() {
    #expect(Simulation.run(seed: 968_972).violation == nil)
  }

  @Test("a process that is stopped for less than the budget keeps its link")
  func shortStall() {
    var plan = Self.plan([(.stalls, 1)])
    plan[.budget] = 20_000
    for seed: UInt64 in 1...100 {
      let report = Simulation.run(seed: seed, changes: plan)
      #expect(report.violation == nil && report.silenceCount == 0, "seed \(seed)")
    }
  }

  @Test("lost links alone never lose a VM: it moves, or it stayed before the hand-off")
  func lossNeverLoses() {
    var movedCount = 0
    for seed: UInt64 in 1...300 {
      let report = Simulation.run(
        seed: seed,
        changes: Self.plan([
          (.breaks, 10), (.partitions, 5), (.stalls, 5), (.drop, 20), (.relapse, 300),
          (.trouble, 40_000),
        ]))
      #expect(report.violation == nil, "seed \(seed): \(report.violation?.description ?? "")")
      #expect(report.fate != .died, "seed \(seed)")
      movedCount += report.fate == .moved ? 1 : 0
    }
    #expect(movedCount > 20)
  }
}
