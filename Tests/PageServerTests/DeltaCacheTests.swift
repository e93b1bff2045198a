import Codec
import Pages
import Testing

@testable import PageServer

@Suite struct DeltaCacheTests {
  private func page(_ value: Int) -> [UInt8] { TestMemory.content(value) }

  private func sent(
    _ pages: Range<Int>, _ contents: [UInt8], _ round: UInt64, to cache: DeltaCache,
    takesNew: Bool = true
  ) {
    cache.sent(pages, contents.rawBytes, round: round, takesNew: takesNew)
  }

  private func compare(
    _ pages: Range<Int>, _ contents: [UInt8], _ round: UInt64, in cache: DeltaCache
  ) -> DeltaCache.Comparison {
    cache.compare(pages, contents.rawBytes, round: round)
  }

  private func writeDelta(
    _ pages: Range<Int>, _ contents: [UInt8], _ cache: DeltaCache, to delta: inout [UInt8]
  ) -> Bool {
    delta.withMutableRawBytes { cache.writeDelta(of: pages, contents.rawBytes, to: &$0) }
  }

  private func cache(_ pageCount: Int) throws -> DeltaCache {
    let cache = try DeltaCache(byteCount: UInt64(pageCount * 4096))
    #expect(cache.begin(imagePageCount: 64))
    return cache
  }

  /// A look in a round, which keeps a page in its place.
  private func isKnown(_ page: Int, in cache: DeltaCache, round: UInt64 = 1) -> Bool {
    compare(page..<page + 1, self.page(0), round, in: cache).known == 1
  }

  private func taken(_ pages: [Int]) -> PageBitmap {
    var bitmap = PageBitmap(pageCount: 64)
    for page in pages { bitmap.insert(page) }
    return bitmap
  }

  @Test func whatWasSentIsKnown() throws {
    let cache = try cache(64)
    sent(4..<7, (page(4) + page(5) + page(6)), 1, to: cache)
    let now = page(3) + page(4) + page(50) + page(6) + page(7)
    let found = compare(3..<8, now, 2, in: cache)
    #expect(found.known == 0b01110 && found.same == 0b01010)
  }

  @Test func whatHasChangedIsAgainstWhatWasSentLast() throws {
    let cache = try cache(64)
    sent(4..<6, (page(4) + page(5)), 1, to: cache)
    sent(5..<6, page(15), 2, to: cache)
    let now = page(24) + page(25)
    var delta = [UInt8](repeating: 0, count: 8192)
    #expect(writeDelta(4..<6, now, cache, to: &delta))
    #expect(zip(zip(delta, page(4) + page(15)), now).allSatisfy { $0.0 ^ $0.1 == $1 })
    #expect(!writeDelta(5..<7, now, cache, to: &delta), "page 6 was never sent")
  }

  @Test func whatWasForgottenIsUnknown() throws {
    let cache = try cache(64)
    sent(4..<6, (page(4) + page(5)), 1, to: cache)
    cache.forget(5..<9)
    #expect(isKnown(4, in: cache) && !isKnown(5, in: cache))
  }

  /// Of a lost round only what the destination has taken in; of earlier rounds everything that the
  /// lost one did not send.
  @Test func aLostRoundTakesWithItWhatWasNotTakenIn() throws {
    let cache = try cache(64)
    sent(0..<4, (0..<4).flatMap(page), 1, to: cache)
    sent(2..<6, (2..<6).flatMap { page($0 + 10) }, 2, to: cache)
    cache.lost(round: 2, except: taken([3, 5]))
    #expect((0..<6).filter { isKnown($0, in: cache) } == [0, 1, 3, 5])
  }

  /// A thread of the lost link may still be about to send.
  @Test func whatIsSentOfALostRoundIsNotKept() throws {
    let cache = try cache(64)
    sent(0..<2, (page(0) + page(1)), 1, to: cache)
    cache.lost(round: 2, except: taken([]))
    sent(1..<3, (page(11) + page(12)), 2, to: cache)
    #expect((0..<3).filter { isKnown($0, in: cache) } == [0])
    sent(1..<2, page(21), 3, to: cache)
    #expect(isKnown(1, in: cache))
  }

  /// Pages 0 and 8 have one place. Whoever came first stays while each round sends it again.
  @Test func aPageThatIsSentInEachRoundStays() throws {
    let cache = try cache(8)
    for round in UInt64(1)...3 {
      for page in [0, 8] {
        let contents = self.page(page + Int(round) * 16)
        _ = compare(page..<page + 1, contents, round, in: cache)
        sent(page..<page + 1, contents, round, to: cache)
      }
      #expect(isKnown(0, in: cache, round: round) && !isKnown(8, in: cache, round: round))
    }
    // Round 4 does without it.
    sent(8..<9, page(8), 4, to: cache)
    #expect(!isKnown(0, in: cache, round: 4) && isKnown(8, in: cache, round: 4))
  }

  /// Nothing new is kept while that would not pay; what is kept stays what was sent.
  @Test func whatIsKeptIsAlwaysWhatWasSent() throws {
    let cache = try cache(64)
    sent(0..<1, page(0), 1, to: cache)
    sent(0..<2, (page(10) + page(11)), 2, to: cache, takesNew: false)
    let found = compare(0..<2, page(10) + page(11), 3, in: cache)
    #expect(found.known == 1 && found.same == 1)
  }

  @Test func anEndedCacheKnowsNothing() throws {
    let cache = try cache(8)
    sent(0..<1, page(0), 1, to: cache)
    cache.end()
    #expect(!isKnown(0, in: cache))
    sent(0..<1, page(0), 2, to: cache)
    #expect(!isKnown(0, in: cache))
  }

  @Test func aCacheOfLessThanAPageKeepsNothing() throws {
    let cache = try DeltaCache(byteCount: 4095)
    #expect(cache.begin(imagePageCount: 64))
    sent(0..<1, page(0), 1, to: cache)
    cache.forget(0..<1)
    #expect(!isKnown(0, in: cache))
  }
}
