import Pages
import Prefetch
import Testing

@Suite struct BubblingTests {
  private func source(_ layout: ImageLayout, pivots: Int = 7) -> Source {
    Source(Bubbling(layout: layout, pivotCount: pivots), layout)
  }

  @Test func withoutFaultsItIsTheLinearScan() throws {
    let source = self.source(try mixedImage())
    source.pushAll()
    #expect(source.pushed.flatMap { Array($0) } == Array(0..<source.pageCount))
  }

  @Test func theRestOfTheBlockComesFirstThenBothWays() throws {
    let source = self.source(try image([(256, .small)]))
    source.demand(100)
    for _ in 0..<6 { #expect(source.push()) }
    #expect(
      source.pushed == [101..<112, 96..<100, 112..<128, 80..<96, 128..<144, 64..<80])
  }

  @Test func theLatestFaultsBlockComesFirst() throws {
    let source = self.source(try image([(256, .small)]))
    source.demand(32)
    source.demand(64)
    source.demand(128)
    for _ in 0..<3 { #expect(source.push()) }
    #expect(source.pushed == [129..<144, 65..<80, 33..<48])
  }

  @Test func bubblesTakeTurns() throws {
    let source = self.source(try image([(4096, .small)]))
    source.demand(1000)
    source.demand(2008)
    // The rests of the two blocks, in two pieces each, then six turns.
    for _ in 0..<10 { #expect(source.push()) }
    #expect(
      Array(source.pushed.dropFirst(4)) == [
        1008..<1024, 2016..<2032, 976..<992, 1984..<2000, 1024..<1040, 2032..<2048,
      ])
  }

  @Test func anEdgeStopsAtAPageThatIsSentAndStaysStopped() throws {
    let source = self.source(try image([(256, .small)]))
    source.claimed.insert(120)
    source.claimed.insert(90)
    source.demand(100)
    for _ in 0..<4 { #expect(source.push()) }
    #expect(source.pushed == [101..<112, 96..<100, 112..<120, 91..<96])
    // Both edges have stopped: the scan takes over from the start.
    #expect(source.push())
    #expect(source.pushed.last == 0..<16)
    source.pushAll()
  }

  @Test func anEdgeStopsAtItsRegionsEnd() throws {
    let source = self.source(try image([(32, .small), (64, .small), (32, .small)]))
    source.demand(32 + 40)
    while source.pushed.reduce(0, { $0 + $1.count }) < 63 { #expect(source.push()) }
    #expect(source.pushed.allSatisfy { (32..<96).contains($0.lowerBound) && $0.upperBound <= 96 })
    source.pushAll()
  }

  @Test func aHugeRegionGrowsPageByPage() throws {
    let source = self.source(try image([(5, .small), (9, .huge)]))
    source.demand(5 + 4)
    for _ in 0..<4 { #expect(source.push()) }
    #expect(source.pushed == [10..<11, 8..<9, 11..<12, 7..<8])
    source.pushAll()
  }

  @Test func theOldestPivotIsReplaced() throws {
    let source = self.source(try image([(4096, .small)]), pivots: 2)
    for page in [1000, 2000, 3000] { source.demand(page) }
    var touched = Set<Int>()
    for _ in 0..<20 {
      #expect(source.push())
      touched.insert(source.pushed.last!.lowerBound / 500)
    }
    #expect(!touched.contains { $0 == 1 || $0 == 2 }, "nothing grows around page 1000")
    #expect(touched.contains { $0 == 3 || $0 == 4 })
    #expect(touched.contains { $0 == 5 || $0 == 6 })
  }

  @Test func aPivotThatHasStoppedIsReplacedBeforeALivingOne() throws {
    let source = self.source(try image([(4096, .small)]), pivots: 2)
    source.demand(1000)
    // Between claimed pages: a bubble that cannot grow.
    for page in 2000..<2048 { source.claimed.insert(page) }
    source.demand(2020)
    for _ in 0..<8 { #expect(source.push()) }
    source.demand(3000)
    let before = source.pushed.count
    for _ in 0..<8 { #expect(source.push()) }
    let later = source.pushed[before...].map { $0.lowerBound / 500 }
    #expect(later.contains { $0 == 1 || $0 == 2 }, "the older, living pivot still grows")
    #expect(later.contains { $0 == 5 || $0 == 6 })
  }

  @Test func aBlockAtTheEndOfARegionIsCut() throws {
    let source = self.source(try image([(20, .small), (20, .small)]))
    source.demand(18)
    for _ in 0..<3 { #expect(source.push()) }
    #expect(source.pushed == [19..<20, 16..<18, 0..<16])
    source.demand(20)
    #expect(source.push())
    #expect(source.pushed.last == 21..<36)
    source.pushAll()
  }

  @Test func aDemandOfARunIsOnePivot() throws {
    let layout = try image([(256, .small)])
    let source = self.source(layout)
    for page in 98..<114 { source.claimed.insert(page) }
    source.policy.noteDemand(
      PageRun(region: RegionIndex(0), start: PageIndex(98), count: PageCount(16)))
    for _ in 0..<4 { #expect(source.push()) }
    #expect(source.pushed == [114..<128, 96..<98, 128..<144, 80..<96])
  }

  @Test func brokenArgumentsStopTheProcess() async {
    await #expect(processExitsWith: .failure) {
      _ = Bubbling(layout: try image([(16, .small)]), pivotCount: 0)
    }
    await #expect(processExitsWith: .failure) {
      var policy = Bubbling(layout: try image([(16, .small)]))
      policy.noteDemand(
        PageRun(region: RegionIndex(0), start: PageIndex(16), count: PageCount(1)))
    }
  }
}
