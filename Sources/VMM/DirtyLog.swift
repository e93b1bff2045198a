public import Pages

/// A VMM that tells which pages of its guest's memory were written.
///
/// Every call blocks, for a bounded time. The log costs the guest a fault for the first write to
/// each page after each fetch.
public protocol DirtyLog: Sendable {
  /// Whether a look takes milliseconds and stops nobody: then it is looked in the middle of rounds
  /// as well.
  var isCheap: Bool { get }
  /// Before then no look should be made, unless it is the last: looks that stop the VM take no more
  /// than 1/20 of its time. nil for at once.
  var earliestLook: Instant? { get }
  /// Begins to watch. Watching already begins anew: what was not fetched is forgotten.
  func startDirtyLog() throws(VMMError)
  /// Which pages were written, by the guest or by the VMM itself, since the last call or the start:
  /// one bit for each 4 KiB of the image by offset, the lowest bit of the first byte being offset
  /// 0. A page whose write is under way is told now, or the next time.
  func fetchDirtyLog() throws(VMMError) -> [UInt8]
  /// The same behind the pause for the hand-over, and for the last time: the VM stands still
  /// already, and is left so.
  func fetchFinalDirtyLog() throws(VMMError) -> [UInt8]
  /// Watches no more. Harmless when it does not.
  func stopDirtyLog() throws(VMMError)
}

extension DirtyLog {
  /// Unless a log knows better.
  public var isCheap: Bool { true }
  /// Unless its looks stop the VM.
  public var earliestLook: Instant? { nil }
  /// Unless the log does something about a VM that runs.
  public func fetchFinalDirtyLog() throws(VMMError) -> [UInt8] { try fetchDirtyLog() }
}
