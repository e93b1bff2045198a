import Testing

@testable import System

@Suite("Latency histogram")
struct LatencyHistogramTests {
  @Test("Every bucket begins where the one before it ends, and the last holds the largest latency")
  func borders() {
    for bucket in 0..<LatencyHistogram.bucketCount {
      let first = LatencyHistogram.firstTicks(ofBucket: bucket)
      let next = LatencyHistogram.firstTicks(ofBucket: bucket + 1)
      #expect(next > first)
      #expect(LatencyHistogram.bucket(ofTicks: first) == bucket)
      #expect(LatencyHistogram.bucket(ofTicks: next - 1) == bucket)
    }
    let largest = LatencyHistogram.ticks(nanoseconds: .max)
    #expect(LatencyHistogram.bucket(ofTicks: largest) == LatencyHistogram.bucketCount - 1)
  }

  @Test("Quantiles are within 6.25 % of the true ones", arguments: [1, 2, 3, 4, 5] as [UInt64])
  func quantiles(seed: UInt64) throws {
    var state = seed &* 0x9E37_79B9_7F4A_7C15
    let recorder = LatencyRecorder()
    var all: [UInt64] = []
    for _ in 0..<10_000 {
      // xorshift; a long tail like that of real faults.
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      let nanoseconds = 1000 + (state >> 40) % 50_000 * (state % 100 == 0 ? 100 : 1)
      all.append(nanoseconds)
      recorder.record(nanoseconds: nanoseconds)
    }
    all.sort()
    let histogram = recorder.histogram()
    #expect(histogram.count == 10_000)
    for quantile in [0.0001, 0.01, 0.5, 0.9, 0.99, 0.999, 1] {
      let exact = Double(all[max(1, Int((quantile * 10_000).rounded(.up))) - 1])
      let found = Double(try #require(histogram.nanoseconds(atQuantile: quantile)))
      #expect(abs(found - exact) <= exact * 0.0625 + 2, "seed \(seed), quantile \(quantile)")
    }
    #expect(all[9999] - histogram.maximumNanoseconds <= 1)
    #expect(histogram.powersOfTwo().map(\.count).reduce(0, +) == 10_000)
  }

  @Test("Rows are powers of two of microseconds, from the first to the last that is not empty")
  func rows() {
    let recorder = LatencyRecorder()
    #expect(recorder.histogram().powersOfTwo().isEmpty)
    #expect(recorder.histogram().nanoseconds(atQuantile: 0.5) == nil)
    for nanoseconds in [3_000, 3_999, 4_000, 16_000] as [UInt64] {
      recorder.record(nanoseconds: nanoseconds)
    }
    let rows = recorder.histogram().powersOfTwo()
    #expect(rows.map(\.belowMicroseconds) == [4, 8, 16, 32])
    #expect(rows.map(\.fromMicroseconds) == [2, 4, 8, 16])
    #expect(rows.map(\.count) == [2, 1, 0, 1])
    let extreme = LatencyRecorder()
    extreme.record(nanoseconds: 0)
    extreme.record(nanoseconds: .max)
    #expect(extreme.histogram().powersOfTwo().first?.fromMicroseconds == 0)
    #expect(extreme.histogram().powersOfTwo().map(\.count).reduce(0, +) == 2)
  }
}
