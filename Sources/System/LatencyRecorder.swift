public import Synchronization

/// Counts latencies while they happen; read at any time from any thread.
///
/// Our own and not a package: it is one array of counters that any thread may add to and read while
/// others do (two relaxed atomic operations, no lock, nothing allocated), which the progress line
/// needs and HdrHistogram's mutating `record` does not offer.
public final class LatencyRecorder: Sendable {
  @usableFromInline let counts: InlineArray<608, Atomic<UInt64>>
  @usableFromInline let maximumTicks = Atomic<UInt64>(0)

  /// No latencies yet.
  public init() {
    counts = InlineArray { _ in Atomic(0) }
  }

  /// Adds one latency. About 5 ns; allowed on the fault path.
  @inlinable
  public func record(nanoseconds: UInt64) {
    let ticks = LatencyHistogram.ticks(nanoseconds: nanoseconds)
    counts[LatencyHistogram.bucket(ofTicks: ticks)].wrappingAdd(1, ordering: .relaxed)
    // The maximum rarely moves: look before taking the cache line for writing.
    if ticks > maximumTicks.load(ordering: .relaxed) {
      maximumTicks.max(ticks, ordering: .relaxed)
    }
  }

  /// The counts now. Latencies that are being added meanwhile may or may not be in.
  public func histogram() -> LatencyHistogram {
    var copy = LatencyHistogram()
    for bucket in 0..<LatencyHistogram.bucketCount {
      copy.add(counts[bucket].load(ordering: .relaxed), toBucket: bucket)
    }
    copy.raiseMaximum(toTicks: maximumTicks.load(ordering: .relaxed))
    return copy
  }
}
