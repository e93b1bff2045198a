/// How far a migration is, at one moment.
public struct ProgressSample: Hashable, Sendable, Codable {
  /// The VM's name.
  public var vm: String
  /// What goes on, in a word: "frozen", "running".
  public var phase: String
  /// Since the start.
  public var elapsedNanoseconds: UInt64
  /// Pages that need nothing more: resident, zero or removed; on the source: sent or known zero.
  public var donePageCount: UInt64
  /// All pages.
  public var totalPageCount: UInt64
  /// Page payload so far.
  public var byteCount: UInt64
  /// Page payload per second, lately.
  public var bytesPerSecond: UInt64
  /// Until the last page, as it goes now; nil while that cannot be told.
  public var nanosecondsLeft: UInt64?
  /// Faults so far; nil on the source.
  public var faultCount: UInt64?
  /// Half of the faults took at most this.
  public var p50Nanoseconds: UInt64?
  /// 99 % took at most this.
  public var p99Nanoseconds: UInt64?

  /// A sample with all its parts.
  public init(
    vm: String, phase: String, elapsedNanoseconds: UInt64, donePageCount: UInt64,
    totalPageCount: UInt64, byteCount: UInt64, bytesPerSecond: UInt64,
    nanosecondsLeft: UInt64? = nil, faultCount: UInt64? = nil, p50Nanoseconds: UInt64? = nil,
    p99Nanoseconds: UInt64? = nil
  ) {
    self.nanosecondsLeft = nanosecondsLeft
    self.vm = vm
    self.phase = phase
    self.elapsedNanoseconds = elapsedNanoseconds
    self.donePageCount = donePageCount
    self.totalPageCount = totalPageCount
    self.byteCount = byteCount
    self.bytesPerSecond = bytesPerSecond
    self.faultCount = faultCount
    self.p50Nanoseconds = p50Nanoseconds
    self.p99Nanoseconds = p99Nanoseconds
  }
}

/// One line that says how far a migration is.
public enum ProgressLine {
  /// The line in at most `width` columns. Where there is no room, what matters least goes first:
  /// bytes, then elapsed time, faults, rate; then the VM's name is cut.
  public static func text(_ sample: ProgressSample, width: Int) -> String {
    let share = Amounts.share(sample.donePageCount, of: sample.totalPageCount)
    let head = "\(sample.phase) \(share)"
    // In the order of the line; the numbers tell who goes first when there is no room.
    var parts: [(text: String, leaves: Int)] = [
      ("\(Amounts.bytes(sample.byteCount))", 0),
      (Amounts.rate(bytesPerSecond: sample.bytesPerSecond), 3),
    ]
    if let faults = Self.faults(sample) { parts.append((faults, 2)) }
    parts.append((Amounts.duration(nanoseconds: sample.elapsedNanoseconds), 1))
    if let left = sample.nanosecondsLeft, left > 0 {
      parts.append(("\(Amounts.duration(nanoseconds: left)) left", 2))
    }
    for leaving in 0...4 {
      let kept = parts.filter { $0.leaves >= leaving }.map(\.text)
      let line = "VM \(sample.vm): " + ([head] + kept).joined(separator: " · ")
      if line.count <= width { return line }
    }
    let room = width - head.count - 2
    guard room >= 4 else { return String(head.prefix(max(0, width))) }
    return sample.vm.prefix(room - 1) + "…: " + head
  }

  private static func faults(_ sample: ProgressSample) -> String? {
    guard let count = sample.faultCount else { return nil }
    var text = "\(Amounts.count(count)) faults"
    if let p50 = sample.p50Nanoseconds, let p99 = sample.p99Nanoseconds {
      text +=
        " (p50 \(Amounts.duration(nanoseconds: p50)), "
        + "p99 \(Amounts.duration(nanoseconds: p99)))"
    }
    return text
  }
}
