import Pages
import System
import Testing

@testable import PageServer

struct RoundLooksTests {
  private let start = Instant(nanoseconds: 1_000_000_000)

  private func at(_ milliseconds: UInt64) -> Instant {
    start.advanced(byNanoseconds: milliseconds * 1_000_000)
  }

  private func pages(_ positions: some Sequence<Int>) -> PageBitmap {
    var pages = PageBitmap(pageCount: 64)
    for position in positions { pages.insert(position) }
    return pages
  }

  private func look(
    _ looks: inout RoundLooks, _ written: some Sequence<Int>, takenCount: Int,
    at milliseconds: UInt64, cost: UInt64 = 1
  ) {
    looks.lookedMidway(
      pages(written), untaken: pages(takenCount..<64), takenCount: takenCount,
      from: at(milliseconds), to: at(milliseconds + cost))
  }

  @Test func onlyWhatWasTakenBeforeItWasWrittenIsStale() {
    var looks = RoundLooks(pageCount: 64, imagePageCount: 64, start: start)
    look(&looks, [1, 7, 8, 40], takenCount: 8, at: 200)
    #expect((0..<64).filter { looks.stale[$0] } == [1, 7])
    look(&looks, [40, 41], takenCount: 41, at: 400)
    #expect((0..<64).filter { looks.stale[$0] } == [1, 7, 40])
    // What the last look tells is the caller's.
    looks.lookedLast(pages([63]), at: at(500))
    #expect(!looks.stale[63])
  }

  @Test func looksAreFew() {
    var looks = RoundLooks(pageCount: 64, imagePageCount: 64, start: start)
    #expect(!looks.isDue(at(5000), takenCount: 7), "an eighth is not taken yet")
    #expect(looks.isDue(at(5000), takenCount: 8))
    #expect(!looks.isDue(at(99), takenCount: 8), "too soon")
    #expect(!looks.isDue(at(5000), takenCount: 57), "the end is near")
    look(&looks, [], takenCount: 8, at: 200, cost: 10)
    #expect(!looks.isDue(at(399), takenCount: 16), "a look takes a twentieth of the time at most")
    #expect(looks.isDue(at(400), takenCount: 16))
    #expect(!looks.isDue(at(400), takenCount: 15))
  }

  @Test func aRoundOfNoPagesHasNoLook() {
    let looks = RoundLooks(pageCount: 0, imagePageCount: 64, start: start)
    #expect(!looks.isDue(at(5000), takenCount: 0))
  }

  @Test func theLastStretchesTellTheRate() {
    var looks = RoundLooks(pageCount: 64, imagePageCount: 64, start: start)
    look(&looks, 0..<10, takenCount: 10, at: 200)
    look(&looks, 5..<15, takenCount: 20, at: 400)
    looks.lookedLast(pages(10..<20), at: at(600))
    func told(_ milliseconds: UInt64) -> [UInt64] {
      let (pages, nanoseconds) = looks.written(inLast: milliseconds * 1_000_000)
      return [UInt64(pages.setCount), nanoseconds / 1_000_000]
    }
    #expect(told(0) == [10, 200])
    #expect(told(200) == [10, 200])
    #expect(told(201) == [15, 400])
    #expect(told(5000) == [20, 600])
  }
}
