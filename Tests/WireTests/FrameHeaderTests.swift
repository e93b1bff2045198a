import Codec
import Pages
import Testing
import Wire

@Suite struct SmokeTests {
  @Test func roundTrip() throws {
    let run = PageRun(region: RegionIndex(3), start: PageIndex(77), count: PageCount(16))
    let header = FrameHeader.pages(
      run, pageSize: .small, isDemanded: true, session: 0xdead_beef, sequence: 9, checksum: 5)
    var bytes: [UInt8] = []
    header.appendEncoded(to: &bytes)
    #expect(bytes.count == 32)
    #expect(try FrameHeader(decoding: bytes.rawBytes) == header)
  }
}
