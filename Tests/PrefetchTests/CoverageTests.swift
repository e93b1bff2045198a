import Pages
import Prefetch
import Testing

/// Each page exactly once, all pages in the end: `Source.push` judges every step.
@Suite struct CoverageTests {
  @Test(arguments: PrefetchKind.allCases, Trace.allCases)
  func everyTraceCoversTheImage(kind: PrefetchKind, trace: Trace) throws {
    let source = Source(kind, try mixedImage())
    for touch in trace.touches(pageCount: source.pageCount) {
      if !source.claimed[touch] { source.demand(touch) }
      _ = source.push()
    }
    source.pushAll()
    #expect(source.isDone)
    let pushedCount = source.pushed.reduce(0) { $0 + $1.count }
    #expect(pushedCount + source.demandCount == source.pageCount)
  }

  /// The urgent thread claims pages at any moment, with and without the policy hearing of it, and
  /// demands repeat pages that are claimed long since.
  @Test(arguments: PrefetchKind.allCases, [11, 20_261_121, 0xfade] as [UInt64])
  func anyInterleavingCoversTheImage(kind: PrefetchKind, seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    for round in 0..<20 {
      let layout = try image(
        (0...(random.next() % 6)).map { _ in
          (1 + Int(random.next() % 600), random.next() % 4 == 0 ? .huge : .small)
        })
      let source = Source(kind, layout)
      var stepCount = 0
      while !source.isDone, stepCount < source.pageCount * 8 {
        stepCount += 1
        let page = Int(random.next() % UInt64(source.pageCount))
        switch random.next() % 6 {
        case 0: source.demand(page)
        case 1: source.claimed.insert(page)
        case 2: source.policy.noteDemand(PageRun(layout.pageID(atFlatIndex: page)))
        default: _ = source.push()
        }
      }
      #expect(source.isDone, "seed \(seed), round \(round)")
      #expect(!source.push(), "seed \(seed), round \(round)")
    }
  }

  @Test(arguments: PrefetchKind.allCases)
  func theSameDemandsGiveTheSameRuns(kind: PrefetchKind) throws {
    func runs() throws -> [Range<Int>] {
      let source = Source(kind, try mixedImage())
      for touch in Trace.random.touches(pageCount: source.pageCount) where touch % 3 == 0 {
        if !source.claimed[touch] { source.demand(touch) }
        _ = source.push()
      }
      source.pushAll()
      return source.pushed
    }
    #expect(try runs() == runs())
  }
}

/// Counts how many words of a bitmap a policy looks at, at most 64 pages each.
final class CountingClaims: ClaimedPages {
  private var claimed: PageBitmap
  private(set) var lookCount = 0

  init(pageCount: Int) { claimed = PageBitmap(pageCount: pageCount) }

  var setCount: Int { claimed.setCount }

  func insert(_ flatIndex: Int) { claimed.insert(flatIndex) }

  func isClaimed(_ flatIndex: Int) -> Bool {
    lookCount += 1
    return claimed[flatIndex]
  }

  func firstUnclaimed(from start: Int, before end: Int) -> Int? {
    let found = claimed.firstClear(from: start, before: end)
    lookCount += ((found ?? max(start, end)) - start) / 64 + 1
    return found
  }

  func firstClaimed(from start: Int, before end: Int) -> Int? {
    let found = claimed.firstSet(from: start, before: end)
    lookCount += ((found ?? max(start, end)) - start) / 64 + 1
    return found
  }
}

@Suite struct StepCostTests {
  /// 16 GiB of 4 KiB pages that are claimed but for a few far apart, and a demand before each step:
  /// all steps together look at each word of the bitmap a bounded number of times.
  @Test(arguments: PrefetchKind.allCases)
  func stepsAreConstantAmortised(kind: PrefetchKind) throws {
    let pageCount = 1 << 22
    let layout = try image([(pageCount, .small)])
    let claimed = CountingClaims(pageCount: pageCount)
    let holes = Set((0..<64).map { $0 * 65_536 + 77 })
    for page in 0..<pageCount where !holes.contains(page) { claimed.insert(page) }
    var policy = kind.makePolicy(for: layout)
    var stepCount = 0
    policy.noteDemand(PageRun(layout.pageID(atFlatIndex: 12_345)))
    while let run = policy.next(skipping: claimed) {
      for page in layout.flatRange(of: run) { claimed.insert(page) }
      stepCount += 1
      policy.noteDemand(PageRun(layout.pageID(atFlatIndex: stepCount * 1000)))
    }
    #expect(claimed.setCount == pageCount)
    #expect(stepCount == holes.count)
    // Once through the bitmap, once more to be sure at the end, and a few looks a step.
    #expect(claimed.lookCount <= 2 * pageCount / 64 + stepCount * 100)
  }

  @Test(arguments: PrefetchKind.allCases)
  func everySecondPageClaimedCostsAFewLooksAStep(kind: PrefetchKind) throws {
    let pageCount = 1 << 16
    let layout = try image([(pageCount, .small)])
    let claimed = CountingClaims(pageCount: pageCount)
    for page in stride(from: 0, to: pageCount, by: 2) { claimed.insert(page) }
    var policy = kind.makePolicy(for: layout)
    var stepCount = 0
    while let run = policy.next(skipping: claimed) {
      for page in layout.flatRange(of: run) { claimed.insert(page) }
      stepCount += 1
      policy.noteDemand(PageRun(layout.pageID(atFlatIndex: (stepCount * 7919) % pageCount)))
    }
    #expect(claimed.setCount == pageCount)
    #expect(claimed.lookCount <= 2 * pageCount / 64 + stepCount * 60)
  }
}

@Suite struct PrefetchKindTests {
  /// Users write them on the command line and in scripts.
  @Test func namesAreStable() {
    #expect(PrefetchKind.allCases.map(\.rawValue) == ["linear", "bubbling"])
  }
}
