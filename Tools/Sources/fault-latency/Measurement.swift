/// What one run showed.
struct Measurement: Sendable {
  var p50Nanoseconds: UInt64 = 0
  var p99Nanoseconds: UInt64 = 0
  var faultCount = 0
  var seconds = 0.0
  var source = Footprint()
  var destination = Footprint()

  /// Fills in the percentiles of `nanoseconds`.
  mutating func take(faults nanoseconds: [UInt64]) {
    let sorted = nanoseconds.sorted()
    faultCount = sorted.count
    guard !sorted.isEmpty else { return }
    p50Nanoseconds = sorted[(sorted.count - 1) / 2]
    p99Nanoseconds = sorted[(sorted.count - 1) * 99 / 100]
  }
}

/// What one daemon took in one run.
struct Footprint: Sendable {
  var processorSeconds = 0.0
  /// The highest RssAnon + RssFile seen; guest memory is RssShmem or another process's.
  var peakResidentKibibytes = 0
}

/// The middle value; of two, the lower one.
func median<Value: Comparable>(_ values: [Value]) -> Value? {
  values.isEmpty ? nil : values.sorted()[(values.count - 1) / 2]
}
