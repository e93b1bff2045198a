/// Something that slows a VM's guest down.
///
/// What is taken is lent for a time: whoever wants it longer asks again. So a guest whose migration
/// has died with all its processes is at full speed again soon.
public protocol ProcessorThrottle: Sendable {
  /// Whether the VMM itself gets slower with its guest: what it is asked for takes longer.
  var slowsVMM: Bool { get }
  /// Takes a share of its processor time from the guest, in percent, 0 to 99, for so long at most;
  /// in place of what was taken before. 0: it gets all of it, at once.
  func throttle(percent: Int, forMilliseconds: UInt64) throws(VMMError)
  /// The guest gets all of its time, in a moment: it is about to be paused.
  func releaseForPause() throws(VMMError)
}

extension ProcessorThrottle {
  /// Unless a throttle knows otherwise.
  public var slowsVMM: Bool { false }

  /// As any other release, unless a throttle can be faster.
  public func releaseForPause() throws(VMMError) { try throttle(percent: 0, forMilliseconds: 0) }
}
