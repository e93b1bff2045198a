/// A control group's bound of processor time: so much of it in each period. Pure.
struct ProcessorBound: Codable, Hashable, Sendable {
  /// The kernel takes none that is smaller: 1 ms, in both versions (sched-bwc.rst).
  static let minimumQuotaMicroseconds: UInt64 = 1000
  /// The kernel takes none that is longer: 1 s.
  private static let maximumPeriodMicroseconds: UInt64 = 1_000_000

  /// Processor time in each period, of all processors together; nil for no bound.
  var quotaMicroseconds: UInt64?
  /// How long a period is.
  var periodMicroseconds: UInt64

  init(quotaMicroseconds: UInt64?, periodMicroseconds: UInt64) {
    self.quotaMicroseconds = quotaMicroseconds
    self.periodMicroseconds = periodMicroseconds
  }

  /// Version 2, "max 100000" or "150000 100000"; nil for anything else.
  init?(version2 text: String) {
    let words = text.split(separator: " ")
    guard words.count == 2 else { return nil }
    self.init(quota: words[0] == "max" ? nil : .some(String(words[0])), period: String(words[1]))
  }

  /// Version 1, the contents of two files; a quota of -1 is no bound.
  init?(version1Quota quota: String, period: String) {
    self.init(quota: quota == "-1" ? nil : .some(quota), period: period)
  }

  private init?(quota text: String?, period: String) {
    guard let period = UInt64(period), (1...Self.maximumPeriodMicroseconds).contains(period) else {
      return nil
    }
    var quota: UInt64?
    if let text {
      guard let number = UInt64(text), number > 0 else { return nil }
      quota = number
    }
    self.init(quotaMicroseconds: quota, periodMicroseconds: period)
  }

  /// As version 2 has it.
  var version2Text: String {
    "\(quotaMicroseconds.map(String.init) ?? "max") \(periodMicroseconds)"
  }

  /// The quota as version 1 has it.
  var version1QuotaText: String { quotaMicroseconds.map(String.init) ?? "-1" }

  /// How much of a second it leaves, rounded down; nil without a bound.
  var microsecondsPerSecond: UInt64? {
    // A quota is never so large that the product overflows when it is made of whole processors.
    quotaMicroseconds.map { $0.multipliedReportingOverflow(by: 1_000_000) }.map {
      $0.overflow ? .max : $0.partialValue / periodMicroseconds
    }
  }

  /// The most of this bound that is no larger a share of time than another one. The period stays.
  func limited(to other: ProcessorBound) -> ProcessorBound {
    guard let quotaMicroseconds, let most = other.quotaMicroseconds else { return self }
    let product = most.multipliedReportingOverflow(by: periodMicroseconds)
    guard !product.overflow else { return self }
    let share = max(product.partialValue / other.periodMicroseconds, Self.minimumQuotaMicroseconds)
    return ProcessorBound(
      quotaMicroseconds: min(quotaMicroseconds, share), periodMicroseconds: periodMicroseconds)
  }

  /// The bound that takes so many percent from whoever could use so much of each second, and never
  /// more than this bound. The period stays.
  func slowed(byPercent percent: Int, usable microsecondsPerSecond: UInt64) -> ProcessorBound {
    let usable = microsecondsPerSecond * periodMicroseconds / 1_000_000
    let whole = min(usable, quotaMicroseconds ?? .max)
    let left = max(whole * UInt64(100 - percent) / 100, Self.minimumQuotaMicroseconds)
    return ProcessorBound(
      quotaMicroseconds: min(left, quotaMicroseconds ?? .max),
      periodMicroseconds: periodMicroseconds)
  }
}
