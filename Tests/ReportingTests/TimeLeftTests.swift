import Reporting
import Testing

@Suite("The time that is left")
struct TimeLeftTests {
  private let second: UInt64 = 1_000_000_000

  @Test("it is foretold by how fast pages were done lately")
  func foretold() {
    var left = TimeLeft()
    #expect(left.nanoseconds(donePageCount: 0, totalPageCount: 1000, elapsedNanoseconds: 0) == nil)
    #expect(
      left.nanoseconds(donePageCount: 100, totalPageCount: 1000, elapsedNanoseconds: second)
        == 9 * second)
    // As fast again: half of the rest takes half of the time.
    #expect(
      left.nanoseconds(
        donePageCount: 550, totalPageCount: 1000, elapsedNanoseconds: 11 * second / 2)
        == 9 * second / 2)
    #expect(
      left.nanoseconds(donePageCount: 1000, totalPageCount: 1000, elapsedNanoseconds: 10 * second)
        == 0)
  }

  @Test("a migration that stands still foretells nothing")
  func still() {
    var left = TimeLeft()
    for elapsed in 0..<100 as Range<UInt64> {
      let found = left.nanoseconds(
        donePageCount: 5, totalPageCount: 1000, elapsedNanoseconds: elapsed * second)
      #expect(found == nil)
    }
  }

  @Test("it stands in the progress line, and goes before the rate when there is no room")
  func line() {
    let sample = ProgressSample(
      vm: "web", phase: "serving", elapsedNanoseconds: second, donePageCount: 1,
      totalPageCount: 2, byteCount: 4096, bytesPerSecond: 4096, nanosecondsLeft: 3 * second)
    let line = ProgressLine.text(sample, width: 200)
    #expect(line.hasSuffix(" · 3.00 s left"), "\(line)")
    let short = ProgressLine.text(sample, width: line.count - 30)
    #expect(short.contains("KiB/s") && !short.contains("left"), "\(short)")
  }
}
