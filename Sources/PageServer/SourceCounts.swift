/// What one encoding has made of the pages that it has packed.
public struct PackedCounts: Hashable, Sendable {
  /// Bytes of pages.
  public var pageByteCount: UInt64 = 0
  /// Bytes that went over the link in their place.
  public var sentByteCount: UInt64 = 0

  /// So many of each; none unless said otherwise.
  public init(pageByteCount: UInt64 = 0, sentByteCount: UInt64 = 0) {
    self.pageByteCount = pageByteCount
    self.sentByteCount = sentByteCount
  }
}

/// What the source's data path has done up to some moment.
public struct SourceCounts: Hashable, Sendable {
  /// Pages of contents sent because they were asked for.
  public var demandedDataPageCount: UInt64 = 0
  /// Pages asked for that held nothing but zeros.
  public var demandedZeroPageCount: UInt64 = 0
  /// Pages of contents sent unasked.
  public var pushedDataPageCount: UInt64 = 0
  /// Pages found to be zero when they were about to be pushed.
  public var pushedZeroPageCount: UInt64 = 0
  /// Pages of contents sent while the VM ran here, each as often as it was sent.
  public var seededDataPageCount: UInt64 = 0
  /// Pages found to be zero then, each as often as it was told.
  public var seededZeroPageCount: UInt64 = 0
  /// Pages that were written then and were the same as before, each as often as it was found.
  public var seededSamePageCount: UInt64 = 0
  /// What was made of pages by sending what has changed of them since they were sent last.
  public var delta = PackedCounts()
  /// What LZ4 has made of pages.
  public var lz4 = PackedCounts()
  /// What zstd has made of pages.
  public var zstd = PackedCounts()
  /// Pages whose memory is broken.
  public var poisonedPageCount: UInt64 = 0
  /// Pages told as absent by the zero map.
  public var absentPageCount: UInt64 = 0
  /// Pages that were sent or told at least once, or are just about to be: none is counted twice.
  public var settledPageCount: UInt64 = 0
  /// Bytes sent on the urgent connection, headers included.
  public var urgentByteCount: UInt64 = 0
  /// Bytes sent on all bulk connections, headers included.
  public var bulkByteCount: UInt64 = 0
  /// Requests answered.
  public var requestCount: UInt64 = 0
  /// Those of them that were met by a thread that was looking for them.
  public var metAwakeCount: UInt64 = 0
  /// Demands that the push did not learn of because it was busy. Costs order, never a page.
  public var hintsDroppedCount: UInt64 = 0
  /// Times that a push had to wait for credit: the destination installs more slowly than we send.
  public var creditWaitCount: UInt64 = 0
  /// Answers by service time: see `SourceCounters.serviceTimeBucketCount`.
  public var serviceTimeBuckets: [UInt64] = []

  /// Nothing done yet.
  public init() {}
}
