import Codec
import Testing

@Suite struct PageDeltaTests {
  private func delta(_ pages: [UInt8], since base: [UInt8], at start: Int = 0) -> [UInt8] {
    var target = [UInt8](repeating: 0x5A, count: start + pages.count + 8)
    target.withMutableRawBytes {
      PageDelta.write(pages.rawBytes, since: base.rawBytes, to: &$0, at: start)
    }
    #expect(target.prefix(start).allSatisfy { $0 == 0x5A })
    #expect(target.suffix(8).allSatisfy { $0 == 0x5A })
    return Array(target[start..<start + pages.count])
  }

  private func areEqual(_ pages: [UInt8], _ others: [UInt8]) -> Bool {
    PageDelta.areEqual(pages.rawBytes, others.rawBytes)
  }

  @Test(arguments: [8, 256, 264, 4096, 65_536])
  func whatHasChangedBringsThePagesBack(byteCount: Int) {
    let base = PagePackingTests.noise(byteCount)
    var pages = base
    for position in stride(from: 0, to: byteCount, by: 100) { pages[position] &+= 1 }
    var changed = delta(pages, since: base, at: 24)
    #expect(zip(changed, zip(pages, base)).allSatisfy { $0 == $1.0 ^ $1.1 })
    changed.withMutableRawBytes { PageDelta.apply(&$0, to: base.rawBytes) }
    #expect(changed == pages)
  }

  @Test func pagesThatAreTheSameHaveNoDelta() {
    let pages = PagePackingTests.noise(4096)
    #expect(areEqual(pages, pages))
    #expect(delta(pages, since: pages).allSatisfy { $0 == 0 })
  }

  /// Wherever it stands.
  @Test func oneBitMakesADifference() {
    let pages = PagePackingTests.noise(4096)
    for position in 0..<4096 {
      var other = pages
      other[position] ^= 1 << UInt8(position % 8)
      #expect(!areEqual(pages, other))
    }
  }

  /// What a guest changes of a page packs to a fraction of what the page would.
  @Test(arguments: PageEncoding.allCases)
  func aDeltaPacksWhereItsPagesDoNot(encoding: PageEncoding) {
    let base = PagePackingTests.noise(65_536)
    var pages = base
    for page in 0..<16 {
      for position in 0..<16 { pages[page * 4096 + position] &+= 1 }
    }
    var packer = PagePacker()
    func count(_ bytes: [UInt8]) -> Int? {
      var room = [UInt8](repeating: 0, count: 65_536)
      return room.withMutableRawBytes { packer.pack(bytes.rawBytes, as: encoding, into: &$0) }
    }
    let plain = count(pages) ?? pages.count
    let changes = count(delta(pages, since: base)) ?? pages.count
    #expect(changes < 1024 && plain > 60_000)
  }
}
