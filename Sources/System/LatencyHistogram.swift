/// How often each latency was seen.
///
/// Each power of two is cut into 16 buckets, so a bucket is at most 1/16 as wide as what it counts:
/// a percentile, interpolated inside its bucket, is wrong by less than 6.25 %; below 16 ticks by
/// less than a tick. The unit is the *tick*, 1/1024 µs, so that the borders of the powers of two
/// fall on whole powers of two of microseconds. What exceeds 2^41 ticks (36 min) counts as that.
public struct LatencyHistogram: Hashable, Sendable {
  /// Buckets of one power of two: 2^4.
  @usableFromInline static let subBucketShift = 4
  /// The largest number of ticks that is told apart, a power of two less one.
  @usableFromInline static let maximumTicks: UInt64 = 1 << 41 - 1
  /// 16 for the first 16 ticks, then 16 for each power of two up to 2^40.
  @usableFromInline static let bucketCount = 608

  private var counts = [UInt64](repeating: 0, count: bucketCount)
  private var highestTicks: UInt64 = 0
  /// How many latencies were counted.
  public private(set) var count: UInt64 = 0

  /// Nothing seen.
  public init() {}

  @inlinable
  static func ticks(nanoseconds: UInt64) -> UInt64 {
    // 1024/1000 = 128/125; bounded before the product can overflow.
    min(min(nanoseconds, maximumTicks) * 128 / 125, maximumTicks)
  }

  @inlinable
  static func bucket(ofTicks ticks: UInt64) -> Int {
    if ticks < 16 { return Int(ticks) }
    let exponent = 63 - ticks.leadingZeroBitCount
    let subBucket = Int((ticks >> UInt64(exponent - subBucketShift)) & 15)
    return (exponent - subBucketShift + 1) << subBucketShift + subBucket
  }

  /// The first number of ticks that the bucket counts.
  static func firstTicks(ofBucket bucket: Int) -> UInt64 {
    if bucket < 16 { return UInt64(bucket) }
    let exponent = bucket >> subBucketShift + subBucketShift - 1
    return (16 + UInt64(bucket & 15)) << UInt64(exponent - subBucketShift)
  }

  mutating func add(_ number: UInt64, toBucket bucket: Int) {
    counts[bucket] += number
    count += number
  }

  mutating func raiseMaximum(toTicks ticks: UInt64) { highestTicks = max(highestTicks, ticks) }

  /// The largest latency, exact to a tick; 0 when nothing was seen.
  public var maximumNanoseconds: UInt64 { Self.nanoseconds(ticks: highestTicks) }

  /// The latency that the given share (0…1) of all stayed at or below; nil when nothing was seen.
  public func nanoseconds(atQuantile quantile: Double) -> UInt64? {
    guard count > 0 else { return nil }
    // The smallest whole number of latencies that is at least this share.
    let exact = Double(count) * min(max(quantile, 0), 1)
    let floor = UInt64(exact)
    let rank = max(1, min(count, Double(floor) < exact ? floor + 1 : floor))
    var before: UInt64 = 0
    for bucket in 0..<Self.bucketCount where counts[bucket] > 0 {
      if before + counts[bucket] >= rank {
        let first = Self.firstTicks(ofBucket: bucket)
        let width = Self.firstTicks(ofBucket: bucket + 1) - first
        let share = Double(rank - before) / Double(counts[bucket])
        return Self.nanoseconds(ticks: min(first + UInt64(Double(width) * share), highestTicks))
      }
      before += counts[bucket]
    }
    return maximumNanoseconds
  }

  /// The counts by powers of two of microseconds: the first row is all below 1 µs, each following
  /// one doubles its upper border. From the first to the last row that is not empty.
  public func powersOfTwo() -> [LatencyRow] {
    var rows: [LatencyRow] = []
    var start = 0
    var exponent = 10  // 2^10 ticks are 1 µs
    while start < Self.bucketCount {
      let end =
        exponent > 40
        ? Self.bucketCount : min(Self.bucketCount, Self.bucket(ofTicks: 1 << UInt64(exponent)))
      let sum = counts[start..<end].reduce(0, +)
      let border = exponent - 10
      rows.append(
        LatencyRow(
          fromMicroseconds: border == 0 ? 0 : 1 << UInt64(border - 1),
          belowMicroseconds: 1 << UInt64(border), count: sum))
      start = end
      exponent += 1
    }
    guard let first = rows.firstIndex(where: { $0.count > 0 }),
      let last = rows.lastIndex(where: { $0.count > 0 })
    else { return [] }
    return Array(rows[first...last])
  }

  private static func nanoseconds(ticks: UInt64) -> UInt64 { ticks * 125 / 128 }
}

/// One row of a histogram by powers of two.
public struct LatencyRow: Hashable, Sendable, Codable {
  /// The lower border, included.
  public let fromMicroseconds: UInt64
  /// The upper border, excluded.
  public let belowMicroseconds: UInt64
  /// How many latencies lie between.
  public let count: UInt64
}
