/// How the rounds of a migration go, for an operator: what the last one came to.
public struct RoundStatus: Codable, Hashable, Sendable {
  /// Which round, counted from 1.
  public var number: UInt64
  /// What is left to send, in bytes of pages.
  public var remainingByteCount: UInt64
  /// Bytes of pages that the link has carried in a second; nil when the round was too short to
  /// tell.
  public var sentBytesPerSecond: UInt64?
  /// Bytes of pages that the VM has written in a second; nil as above.
  public var dirtyBytesPerSecond: UInt64?
  /// How long the VM would stand still for what is left; nil while the link's rate is not known.
  public var predictedDowntimeNanoseconds: UInt64?
  /// How much of its processor time the guest loses, in percent.
  public var throttlePercent: Int
  /// By what: "vmm" or "cgroup"; nil while it loses nothing.
  public var throttleMeans: String?
  /// Who tells what the VM writes: "vmm", "pagemap" or "content".
  public var tracking: String
  /// How long it took to ask.
  public var lookNanoseconds: UInt64
  /// How long the VM stood still for the look at what it wrote; nil when it ran on meanwhile.
  public var lookPauseNanoseconds: UInt64?

  /// A status with all its parts.
  public init(
    number: UInt64, remainingByteCount: UInt64, sentBytesPerSecond: UInt64?,
    dirtyBytesPerSecond: UInt64?, predictedDowntimeNanoseconds: UInt64?, throttlePercent: Int,
    throttleMeans: String?, tracking: String, lookNanoseconds: UInt64,
    lookPauseNanoseconds: UInt64? = nil
  ) {
    self.lookPauseNanoseconds = lookPauseNanoseconds
    self.number = number
    self.remainingByteCount = remainingByteCount
    self.sentBytesPerSecond = sentBytesPerSecond
    self.dirtyBytesPerSecond = dirtyBytesPerSecond
    self.predictedDowntimeNanoseconds = predictedDowntimeNanoseconds
    self.throttlePercent = throttlePercent
    self.throttleMeans = throttleMeans
    self.tracking = tracking
    self.lookNanoseconds = lookNanoseconds
  }

  /// Until nothing would be left, should it go on so; nil where the VM writes as fast as is sent.
  public var nanosecondsLeft: UInt64? {
    guard let sent = sentBytesPerSecond, sent > dirtyBytesPerSecond ?? 0 else { return nil }
    let gain = Double(sent - (dirtyBytesPerSecond ?? 0))
    let nanoseconds = Double(remainingByteCount) / gain * 1e9
    return UInt64(exactly: nanoseconds.rounded())
  }

  /// The same for a person, as a part of a line.
  public var text: String {
    func mebibytes(_ count: UInt64) -> String { "\((count + (1 << 19)) >> 20) MiB" }
    var text = "round \(number), \(mebibytes(remainingByteCount)) left"
    if let sentBytesPerSecond { text += ", sent at \(mebibytes(sentBytesPerSecond))/s" }
    if let dirtyBytesPerSecond { text += ", written at \(mebibytes(dirtyBytesPerSecond))/s" }
    if let predictedDowntimeNanoseconds {
      text += ", \(predictedDowntimeNanoseconds / 1_000_000) ms of downtime foretold"
    }
    if let lookPauseNanoseconds {
      text += ", paused for \(lookPauseNanoseconds / 1_000) µs to see that"
    }
    if let nanosecondsLeft { text += ", about \(nanosecondsLeft / 1_000_000_000) s to go" }
    if throttlePercent > 0 {
      text += ", the guest slowed down by \(throttlePercent) %"
      if let throttleMeans { text += " (by \(throttleMeans))" }
    }
    return text
  }
}
