internal import Codec
internal import Pages
internal import Synchronization
internal import System

/// What the source's threads have done so far. Written by them with relaxed adds, read live by
/// whoever reports.
public final class SourceCounters: Sendable {
  /// Answers are counted in this many buckets of service time: bucket 0 below 1 µs, bucket n from
  /// 2^(n-1) up to 2^n µs, the last one open (above 4 s).
  public static let serviceTimeBucketCount = 24

  private enum Counter: Int, CaseIterable {
    case demandedData, demandedZero, pushedData, pushedZero, poisoned, absent
    case claimed, urgentBytes, bulkBytes, requests, hintsDropped, creditWaits, metAwake
    case seededData, seededZero, seededSame
    case deltaPageBytes, deltaSentBytes
    case lz4PageBytes, lz4SentBytes, zstdPageBytes, zstdSentBytes
  }

  private let counters = AtomicCounts(count: Counter.allCases.count)
  private let shortestRoundTrip = Atomic<UInt64>(0)
  private let serviceTimes = AtomicCounts(count: serviceTimeBucketCount)

  /// Nothing has been done.
  public init() {}

  /// The counters now; each is exact, together they may be a moment apart.
  public func counts() -> SourceCounts {
    var counts = SourceCounts()
    counts.demandedDataPageCount = value(.demandedData)
    counts.demandedZeroPageCount = value(.demandedZero)
    counts.pushedDataPageCount = value(.pushedData)
    counts.pushedZeroPageCount = value(.pushedZero)
    counts.seededDataPageCount = value(.seededData)
    counts.seededZeroPageCount = value(.seededZero)
    counts.seededSamePageCount = value(.seededSame)
    counts.delta = PackedCounts(
      pageByteCount: value(.deltaPageBytes), sentByteCount: value(.deltaSentBytes))
    counts.lz4 = PackedCounts(
      pageByteCount: value(.lz4PageBytes), sentByteCount: value(.lz4SentBytes))
    counts.zstd = PackedCounts(
      pageByteCount: value(.zstdPageBytes), sentByteCount: value(.zstdSentBytes))
    counts.poisonedPageCount = value(.poisoned)
    counts.absentPageCount = value(.absent)
    counts.settledPageCount = value(.claimed)
    counts.urgentByteCount = value(.urgentBytes)
    counts.bulkByteCount = value(.bulkBytes)
    counts.requestCount = value(.requests)
    counts.metAwakeCount = value(.metAwake)
    counts.hintsDroppedCount = value(.hintsDropped)
    counts.creditWaitCount = value(.creditWaits)
    counts.serviceTimeBuckets = serviceTimes.values()
    return counts
  }

  /// The shortest round trip of a heartbeat; nil before the first.
  public var roundTripNanoseconds: UInt64? {
    let nanoseconds = shortestRoundTrip.load(ordering: .relaxed)
    return nanoseconds == 0 ? nil : nanoseconds
  }
}

// What the threads report.
extension SourceCounters {
  /// For the urgent thread alone.
  func noteRoundTrip(_ nanoseconds: UInt64?) {
    guard let nanoseconds else { return }
    shortestRoundTrip.store(
      min(roundTripNanoseconds ?? nanoseconds, nanoseconds), ordering: .relaxed)
  }

  /// A new link begins: what was sent on the last one may not have arrived.
  func unsettle() {
    counters.store(0, at: Counter.claimed.rawValue)
  }

  func answered(serviceNanoseconds: UInt64) {
    add(1, to: .requests)
    // Rounded down to whole microseconds; 0 falls into bucket 0.
    let microseconds = serviceNanoseconds / 1000
    let bucket = UInt64.bitWidth - microseconds.leadingZeroBitCount
    serviceTimes.add(1, at: min(bucket, Self.serviceTimeBucketCount - 1))
  }

  func sentSegment(_ kind: PageKind, pageCount: Int, for purpose: PagePurpose) {
    switch (kind, purpose) {
    case (.poisoned, _): add(pageCount, to: .poisoned)
    case (.content, .demand): add(pageCount, to: .demandedData)
    case (.content, .push): add(pageCount, to: .pushedData)
    case (.content, .seed): add(pageCount, to: .seededData)
    case (.zero, .demand): add(pageCount, to: .demandedZero)
    case (.zero, .push): add(pageCount, to: .pushedZero)
    case (.zero, .seed): add(pageCount, to: .seededZero)
    case (.same, .seed): add(pageCount, to: .seededSame)
    case (.same, .demand), (.same, .push):
      invariantBroken("what was sent before is looked up for seeds alone")
    }
  }

  /// Pages were packed; nil: as what has changed of them.
  func packed(_ encoding: PageEncoding?, pageByteCount: Int, sentByteCount: Int) {
    switch encoding {
    case nil:
      add(pageByteCount, to: .deltaPageBytes)
      add(sentByteCount, to: .deltaSentBytes)
    case .lz4:
      add(pageByteCount, to: .lz4PageBytes)
      add(sentByteCount, to: .lz4SentBytes)
    case .zstd:
      add(pageByteCount, to: .zstdPageBytes)
      add(sentByteCount, to: .zstdSentBytes)
    }
  }

  func claimed(pageCount: Int) { add(pageCount, to: .claimed) }
  func sentUrgent(byteCount: Int) { add(byteCount, to: .urgentBytes) }
  func sentBulk(byteCount: Int) { add(byteCount, to: .bulkBytes) }
  func toldAbsent(pageCount: Int) { add(pageCount, to: .absent) }
  func metAwake() { add(1, to: .metAwake) }
  func droppedHint() { add(1, to: .hintsDropped) }
  func waitedForCredit() { add(1, to: .creditWaits) }

  private func add(_ amount: Int, to counter: Counter) {
    counters.add(UInt64(amount), at: counter.rawValue)
  }

  private func value(_ counter: Counter) -> UInt64 { counters.load(counter.rawValue) }
}
