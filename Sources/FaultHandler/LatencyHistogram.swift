/// Times in buckets of powers of two microseconds, without allocation.
public struct LatencyHistogram: Sendable {
  /// Up to 2^30 µs, 18 minutes; what is longer counts in the last bucket.
  public static let bucketCount = 32

  private var buckets = [32 of UInt64](repeating: 0)
  /// How many times are in it.
  public private(set) var count: UInt64 = 0
  /// The sum of them all.
  public private(set) var totalNanoseconds: UInt64 = 0
  /// The longest.
  public private(set) var maximumNanoseconds: UInt64 = 0

  /// No times.
  public init() {}

  /// Adds one time: bucket 0 takes less than 1 µs, bucket n from 2^(n-1) up to 2^n µs.
  public mutating func record(nanoseconds: UInt64) {
    // Rounded down to whole microseconds.
    let microseconds = nanoseconds / 1000
    let bucket = min(UInt64.bitWidth - microseconds.leadingZeroBitCount, Self.bucketCount - 1)
    buckets[bucket] += 1
    count += 1
    totalNanoseconds += nanoseconds
    maximumNanoseconds = max(maximumNanoseconds, nanoseconds)
  }

  /// How many times are in a bucket below `bucketCount`.
  public func count(inBucket bucket: Int) -> UInt64 { buckets[bucket] }

  /// All buckets, for a report.
  public var counts: [UInt64] { (0..<Self.bucketCount).map { buckets[$0] } }

  /// The time that at most the share `fraction` exceeds, interpolated inside its bucket.
  public func nanoseconds(atFraction fraction: Double) -> UInt64 {
    guard count > 0 else { return 0 }
    let wanted = fraction * Double(count)
    var below: UInt64 = 0
    for bucket in 0..<Self.bucketCount {
      let inside = buckets[bucket]
      if inside > 0, Double(below + inside) >= wanted {
        let start: UInt64 = bucket == 0 ? 0 : 1000 << UInt64(bucket - 1)
        let end: UInt64 = 1000 << UInt64(bucket)
        let share = (wanted - Double(below)) / Double(inside)
        return min(start + UInt64(Double(end - start) * share), maximumNanoseconds)
      }
      below += inside
    }
    return maximumNanoseconds
  }
}
