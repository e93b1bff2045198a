public import Pages
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
    case urgentBytes, bulkBytes, requests, hintsDropped, creditWaits
  }

  private let counts = AtomicCounts(count: Counter.allCases.count)
  private let lastHeard = Atomic<UInt64>(0)
  private let serviceTimes = AtomicCounts(count: serviceTimeBucketCount)

  /// All counters as of about now.
  public struct Snapshot: Hashable, Sendable {
    /// Pages of contents sent because they were asked for.
    public var demandedDataPageCount: UInt64
    /// Pages asked for that held nothing but zeros.
    public var demandedZeroPageCount: UInt64
    /// Pages of contents sent unasked.
    public var pushedDataPageCount: UInt64
    /// Pages found to be zero when they were about to be pushed.
    public var pushedZeroPageCount: UInt64
    /// Pages whose memory is broken.
    public var poisonedPageCount: UInt64
    /// Pages told as absent by the zero map.
    public var absentPageCount: UInt64
    /// Bytes sent on the urgent connection, headers included.
    public var urgentByteCount: UInt64
    /// Bytes sent on all bulk connections, headers included.
    public var bulkByteCount: UInt64
    /// Requests answered.
    public var requestCount: UInt64
    /// Demands that the push did not learn of because it was busy. Costs order, never a page.
    public var hintsDroppedCount: UInt64
    /// Times that a push had to wait for credit: the destination installs more slowly than we send.
    public var creditWaitCount: UInt64
    /// Answers by service time: see `SourceCounters.serviceTimeBucketCount`.
    public var serviceTimeBuckets: [UInt64]

    /// Pages that the destination knows all about; a demand for a pushed page counts twice.
    public var settledPageCount: UInt64 {
      demandedDataPageCount + demandedZeroPageCount + pushedDataPageCount + pushedZeroPageCount
        + poisonedPageCount + absentPageCount
    }
  }

  /// The counters now; each is exact, together they may be a moment apart.
  public func snapshot() -> Snapshot {
    Snapshot(
      demandedDataPageCount: value(.demandedData),
      demandedZeroPageCount: value(.demandedZero),
      pushedDataPageCount: value(.pushedData),
      pushedZeroPageCount: value(.pushedZero),
      poisonedPageCount: value(.poisoned),
      absentPageCount: value(.absent),
      urgentByteCount: value(.urgentBytes),
      bulkByteCount: value(.bulkBytes),
      requestCount: value(.requests),
      hintsDroppedCount: value(.hintsDropped),
      creditWaitCount: value(.creditWaits),
      serviceTimeBuckets: serviceTimes.values())
  }

  /// When anything was last received on the urgent connection; nil before that.
  public var lastHeardFromPeer: Instant? {
    let nanoseconds = lastHeard.load(ordering: .relaxed)
    return nanoseconds == 0 ? nil : Instant(nanoseconds: nanoseconds)
  }
}

// What the threads report.
extension SourceCounters {
  func heard(at now: Instant) { lastHeard.store(now.nanoseconds, ordering: .relaxed) }

  func answered(serviceNanoseconds: UInt64) {
    add(1, to: .requests)
    // Rounded down to whole microseconds; 0 falls into bucket 0.
    let microseconds = serviceNanoseconds / 1000
    let bucket = UInt64.bitWidth - microseconds.leadingZeroBitCount
    serviceTimes.add(1, at: min(bucket, Self.serviceTimeBucketCount - 1))
  }

  func sentSegment(_ kind: PageKind, pageCount: Int, isDemanded: Bool) {
    switch kind {
    case .poisoned: add(pageCount, to: .poisoned)
    case .content: add(pageCount, to: isDemanded ? .demandedData : .pushedData)
    case .zero: add(pageCount, to: isDemanded ? .demandedZero : .pushedZero)
    }
  }

  func sentUrgent(byteCount: Int) { add(byteCount, to: .urgentBytes) }
  func sentBulk(byteCount: Int) { add(byteCount, to: .bulkBytes) }
  func toldAbsent(pageCount: Int) { add(pageCount, to: .absent) }
  func droppedHint() { add(1, to: .hintsDropped) }
  func waitedForCredit() { add(1, to: .creditWaits) }

  private func add(_ amount: Int, to counter: Counter) {
    counts.add(UInt64(amount), at: counter.rawValue)
  }

  private func value(_ counter: Counter) -> UInt64 { counts.load(counter.rawValue) }
}
