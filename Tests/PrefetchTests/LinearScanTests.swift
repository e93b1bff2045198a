import Pages
import Prefetch
import Testing

@Suite struct LinearScanTests {
  @Test func pushesTheImageInOrder() throws {
    let source = Source(.linear, try mixedImage())
    source.pushAll()
    #expect(source.pushed.flatMap { Array($0) } == Array(0..<source.pageCount))
  }

  @Test func stepsAreAsLongAsAllowed() throws {
    let source = Source(.linear, try image([(40, .small), (3, .huge)]))
    source.pushAll()
    #expect(source.pushed == [0..<16, 16..<32, 32..<40, 40..<41, 41..<42, 42..<43])
  }

  @Test func skipsWhatIsClaimed() throws {
    let source = Source(.linear, try image([(64, .small)]))
    for page in [0, 5, 6, 20, 63] { source.claimed.insert(page) }
    source.pushAll()
    #expect(source.pushed == [1..<5, 7..<20, 21..<37, 37..<53, 53..<63])
  }

  @Test func demandsDoNotChangeTheOrder() throws {
    let source = Source(.linear, try image([(64, .small)]))
    source.demand(40)
    source.pushAll()
    #expect(source.pushed == [0..<16, 16..<32, 32..<40, 41..<57, 57..<64])
  }

  @Test func anImageThatIsAllClaimedHasNoSteps() throws {
    let source = Source(.linear, try image([(64, .small)]))
    for page in 0..<64 { source.claimed.insert(page) }
    #expect(!source.push())
    #expect(!source.push())
  }

  @Test func aClaimThatWasGivenBackIsNotLost() throws {
    let source = Source(.linear, try image([(64, .small)]))
    for _ in 0..<3 { #expect(source.push()) }
    source.claimed.remove(3)
    source.pushAll()
    #expect(source.pushed.last == 3..<4)
    source.claimed.remove(9)
    #expect(source.push())
    #expect(source.pushed.last == 9..<10)
  }
}
