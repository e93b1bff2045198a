import Pages
import Prefetch
import Testing

/// A deterministic guest and link. The link carries sixteen pages in each slot, pushed ones as well
/// as it can fill them. The guest touches a page a slot; a page that is not there costs it a round
/// trip of four slots, one of them for the answer, the others filled with push. What counts are the
/// demands: faults that crossed the network.
@Suite struct FaultReductionTests {
  static let roundTripSlotCount = 4
  static let pagesPerSlot = 16

  /// Demands of a guest that touches `touches` in order while `kind` pushes.
  static func demandCount(
    _ kind: PrefetchKind, _ layout: ImageLayout, touching touches: [Int]
  ) -> Int {
    let source = Source(kind, layout)
    var sendablePageCount = 0
    for touch in touches {
      var slotCount = 1
      if !source.claimed[touch] {
        source.demand(touch)
        slotCount = roundTripSlotCount - 1
      }
      sendablePageCount += slotCount * pagesPerSlot
      while sendablePageCount > 0, source.push() {
        sendablePageCount -= source.pushed.last!.count
      }
    }
    return source.demandCount
  }

  /// 1 − demands ÷ demands under the linear scan at equal bandwidth.
  static func reduction(_ layout: ImageLayout, touching touches: [Int]) -> Double {
    let linear = demandCount(.linear, layout, touching: touches)
    return 1 - Double(demandCount(.bubbling, layout, touching: touches)) / Double(max(1, linear))
  }

  /// The guest starts where the linear scan comes last, so that only following it helps.
  @Test func aSequentialGuestFaultsHardlyEver() throws {
    let layout = try image([(65_536, .small)])
    let touches = Array(49_152..<53_248)
    #expect(Self.demandCount(.linear, layout, touching: touches) > 1000)
    // One fault, then the bubble stays ahead of it.
    #expect(Self.demandCount(.bubbling, layout, touching: touches) <= 2)
  }

  @Test func aReverseGuestFaultsHardlyEver() throws {
    let layout = try image([(65_536, .small)])
    let touches = Array((49_152..<53_248).reversed())
    #expect(Self.reduction(layout, touching: touches) > 0.99)
  }

  @Test(arguments: [2, 4, 7])
  func sequentialThreadsAreAllFollowed(threadCount: Int) throws {
    let layout = try image([(262_144, .small)])
    let touches = (0..<2048).flatMap { step in
      (0..<threadCount).map { thread in 131_072 + thread * 16_384 + step }
    }
    #expect(Self.reduction(layout, touching: touches) > 0.95, "\(threadCount) threads")
  }

  @Test func aStridedGuestFaultsLess() throws {
    let layout = try image([(65_536, .small)])
    let touches = Array(stride(from: 32_768, to: 61_440, by: 7))
    #expect(Self.reduction(layout, touching: touches) > 0.9)
  }

  /// No locality, nothing to gain: it must not be worse than the scan by much either.
  @Test(arguments: [5, 20_261_121] as [UInt64])
  func aRandomGuestLosesLittle(seed: UInt64) throws {
    let layout = try image([(16_384, .small)])
    let touches = Trace.random.touches(pageCount: 16_384, seed: seed)
    #expect(Self.reduction(layout, touching: touches) > -0.05, "seed \(seed)")
  }
}
