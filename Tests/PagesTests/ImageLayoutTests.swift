import Pages
import Testing

private func region(
  _ offset: UInt64, _ bytes: UInt64, _ size: PageSize = .small, index: Int = 0
) -> Region {
  Region(
    index: RegionIndex(index), imageOffset: ByteCount(rawValue: offset),
    byteCount: ByteCount(rawValue: bytes), pageSize: size)
}

@Suite("ImageLayout")
struct ImageLayoutTests {
  @Test("a layout of several regions and page sizes counts its pages and bytes")
  func counts() throws {
    let layout = try ImageLayout([
      region(0, 0x20_0000), region(0x20_0000, 0x80_0000, .huge), region(0xa0_0000, 4096),
    ])
    #expect(layout.totalPageCount == PageCount(512 + 4 + 1))
    #expect(layout.totalByteCount == ByteCount(rawValue: 0xa0_1000))
    #expect(layout.regions.map(\.index) == [RegionIndex(0), RegionIndex(1), RegionIndex(2)])
  }

  @Test("every flat index names one page, and that page names the index again")
  func flatIndexRoundTrip() throws {
    let layout = try ImageLayout([
      region(0, 0x3000), region(0x20_0000, 0x60_0000, .huge), region(0x4000, 0x2000),
    ])
    for flat in 0..<Int(layout.totalPageCount.rawValue) {
      let id = layout.pageID(atFlatIndex: flat)
      #expect(layout.flatIndex(of: id) == flat)
      #expect(layout.contains(PageRun(id)))
    }
  }

  @Test("what cannot be an image is refused with its reason")
  func refusals() {
    func failure(_ regions: [Region]) -> LayoutError? {
      do throws(LayoutError) {
        _ = try ImageLayout(regions)
        return nil
      } catch { return error }
    }
    #expect(failure([]) == .noRegions)
    #expect(failure([region(0, 0)]) == .emptyRegion(RegionIndex(0)))
    #expect(failure([region(0, 4097)]) == .unaligned(RegionIndex(0)))
    #expect(failure([region(1, 4096)]) == .unaligned(RegionIndex(0)))
    #expect(failure([region(4096, 0x20_0000, .huge)]) == .unaligned(RegionIndex(0)))
    #expect(
      failure([region(0x2000, 0x2000), region(0x1000, 0x2000)])
        == .overlap(RegionIndex(0), RegionIndex(1)))
    #expect(failure([region(1 << 46, 4096)]) == .outOfBounds(RegionIndex(0)))
    #expect(failure([region(0, (1 << 46) + 4096)]) == .outOfBounds(RegionIndex(0)))
    #expect(failure([region(~0 & ~0xfff, 8192)]) == .outOfBounds(RegionIndex(0)))
    let many = (0...ImageLayout.maximumRegionCount).map { region(UInt64($0) * 4096, 4096) }
    #expect(failure(many) == .tooManyRegions(count: many.count))
  }

  @Test("runs outside a region, and regions that do not exist, are not contained")
  func containment() throws {
    let layout = try ImageLayout([region(0, 0x4000)])
    func contains(_ start: UInt64, _ count: UInt64, region: Int = 0) -> Bool {
      layout.contains(
        PageRun(
          region: RegionIndex(region), start: PageIndex(rawValue: start),
          count: PageCount(rawValue: count)))
    }
    #expect(contains(0, 4))
    #expect(contains(3, 1))
    #expect(!contains(4, 1))
    #expect(!contains(3, 2))
    #expect(!contains(1, .max))
    #expect(!contains(.max, 1))
    #expect(!contains(0, 1, region: 1))
  }
}
