import Simulation
import Testing
import Wire

/// Every message and every record of the hand-over, lost, doubled, delayed, or with a process
/// killed at it. The judge is `handOver` itself: P1 to P7 on every step, then without a durable
/// HANDED_OFF the VM runs at the source, with one at the destination unless ABORTED undid it.
@Suite("Hand-over under loss")
struct HandOverTests {
  @Test("without a fault the VM moves", arguments: MigrationMode.allCases)
  func undisturbed(mode: MigrationMode) {
    for seed: UInt64 in 1...20 {
      let run = Simulation.handOver([], mode: mode, seed: seed)
      #expect(run.finding == nil)
      #expect(run.report.fate == .moved)
    }
  }

  @Test("every single fault, each mode")
  func singles() {
    var summary = HandOverSummary()
    for index in HandOverFault.all.indices {
      summary.add(Simulation.sweepHandOver(first: index, withPairs: false, seed: 1))
    }
    #expect(summary.failures == [])
    #expect(summary.runCount == HandOverFault.all.count * MigrationMode.allCases.count)
    #expect(summary.movedCount > 150 && summary.stayedCount > 50)
    // What only a first fault calls forth is the business of pairs.
    let called: Set<HandOverFault.Point> = [
      .message(.abort), .message(.aborted), .record(.resumed), .record(.runRuledOut),
      .record(.aborted),
    ]
    #expect(summary.unreachedFaults.filter { !called.contains($0.point) } == [])
  }

  /// The lost-acknowledgement window; `Tools/simulate --hand-over`, a stage of its own, runs all
  /// pairs.
  @Test(
    "every pair that begins with GO",
    arguments: HandOverFault.all.indices.filter {
      if case .message(.go) = HandOverFault.all[$0].point { true } else { false }
    })
  func pairs(first: Int) {
    let summary = Simulation.sweepHandOver(first: first, withPairs: true, seed: 1)
    #expect(summary.failures == [])
    #expect(summary.runCount == MigrationMode.allCases.count * (HandOverFault.all.count + 1))
  }

  @Test(
    "killed around its fsync, HANDED_OFF decides by what is on the disk",
    arguments: [
      (HandOverFault.Kind.writerDiesBefore, Fate.stayed), (.writerDiesAfter, .moved),
      (.fails, .stayed), (.failsUnclear, .stayed), (.failsDurable, .stayed),
    ])
  func handedOff(kind: HandOverFault.Kind, fate: Fate) {
    for mode in MigrationMode.allCases {
      let run = Simulation.handOver([HandOverFault(.record(.handedOff), kind)], mode: mode)
      #expect(run.finding == nil)
      #expect(run.hasReachedAll)
      #expect(run.report.fate == fate, "\(run.name)")
    }
  }

  @Test("a lost GO costs time, not safety: also when it is lost twice, and its repeater dies")
  func lostGo() {
    let go = HandOverFault.Point.message(.go)
    for kinds in [
      [HandOverFault.Kind.lost, .lostSilently], [.lostSilently, .senderDiesBefore],
      [.senderDiesAfter, .delayed], [.lostSilently, .duplicated],
    ] {
      let run = Simulation.handOver(kinds.map { HandOverFault(go, $0) }, mode: .postCopy)
      #expect(run.finding == nil)
      #expect(run.hasReachedAll)
      #expect(run.report.fate == .moved, "\(run.name)")
    }
  }

  @Test("a VMM that refuses to run after GO brings the VM back, whatever is lost on the way")
  func refusedRun() {
    let refused = HandOverFault(.command(.run), .refused)
    for second in HandOverFault.all where second != refused {
      let run = Simulation.handOver([refused, second], mode: .postCopy)
      #expect(run.finding == nil, "\(run.name)")
    }
    let alone = Simulation.handOver([refused], mode: .postCopy)
    #expect(alone.report.fate == .stayed)
  }
}
