import Testing

@testable import PageServer

@Suite struct SeedsUnderWayTests {
  /// What a grant tells to be there, page by page.
  private func told(_ seeds: inout SeedsUnderWay, total: UInt64) -> [Int] {
    var pages: [Int] = []
    seeds.granted(total: total) { pages += Array($0) }
    return pages
  }

  @Test func theWindowTellsOfNothing() {
    var seeds = SeedsUnderWay()
    seeds.sent(0..<4, byteCount: 400)
    #expect(told(&seeds, total: 1000) == [])
    #expect(told(&seeds, total: 1399) == [])
    #expect(told(&seeds, total: 1400) == [0, 1, 2, 3])
    #expect(told(&seeds, total: 1400) == [])
  }

  @Test func theOrderIsThatOfSending() {
    var seeds = SeedsUnderWay()
    #expect(told(&seeds, total: 100) == [])
    seeds.sent(7..<8, byteCount: 10)
    seeds.sent(2..<3, byteCount: 10)
    #expect(told(&seeds, total: 110) == [7])
    seeds.sent(5..<6, byteCount: 10)
    #expect(told(&seeds, total: 130) == [2, 5])
  }

  @Test func zerosAreThereOnceSomethingBehindThemIs() {
    var seeds = SeedsUnderWay()
    #expect(told(&seeds, total: 100) == [])
    seeds.sent(0..<1, byteCount: 10)
    seeds.sent(1..<3, byteCount: 0)
    #expect(told(&seeds, total: 110) == [0])
    seeds.sent(3..<4, byteCount: 10)
    // A part of the frame behind them.
    #expect(told(&seeds, total: 111) == [1, 2])
    #expect(told(&seeds, total: 120) == [3])
    // Nothing has come behind these, and nothing tells of them.
    seeds.sent(4..<5, byteCount: 0)
    #expect(told(&seeds, total: 120) == [])
  }

  /// A peer that says more than can be, or less than before.
  @Test func whatWasNotSentIsNotThere() {
    var seeds = SeedsUnderWay()
    seeds.sent(0..<1, byteCount: 10)
    #expect(told(&seeds, total: 50) == [])
    #expect(told(&seeds, total: .max) == [0])
    seeds.sent(1..<2, byteCount: 10)
    #expect(told(&seeds, total: 40) == [])
    #expect(told(&seeds, total: 70) == [1])
  }

  @Test func whatIsForgottenSaysNothingOfWhatFollows() {
    var seeds = SeedsUnderWay()
    #expect(told(&seeds, total: 100) == [])
    seeds.sent(0..<1, byteCount: 10)
    seeds.sent(1..<2, byteCount: 0)
    seeds.forget()
    seeds.sent(5..<6, byteCount: 10)
    #expect(told(&seeds, total: 111) == [])
    #expect(told(&seeds, total: 119) == [])
    #expect(told(&seeds, total: 120) == [5])
  }

  /// Zeros use no credit: however many there are, what is noted of them is bounded.
  @Test func zerosWithoutEndAreNotAllNoted() {
    var seeds = SeedsUnderWay()
    #expect(told(&seeds, total: 100) == [])
    for page in 0..<100_000 { seeds.sent(page..<page + 1, byteCount: 0) }
    seeds.sent(100_000..<100_001, byteCount: 10)
    let pages = told(&seeds, total: 110)
    #expect(pages == Array(0..<SeedsUnderWay.maximumRunCount) + [100_000])
  }

  /// A long round: what is done is forgotten, and the order holds.
  @Test func manyRunsPassThrough() {
    var seeds = SeedsUnderWay()
    #expect(told(&seeds, total: 64) == [])
    var seen: [Int] = []
    for page in 0..<10_000 {
      seeds.sent(page..<page + 1, byteCount: 1)
      seen += told(&seeds, total: 64 + UInt64(max(0, page - 63)))
    }
    #expect(seen == Array(0..<9936))
  }
}
