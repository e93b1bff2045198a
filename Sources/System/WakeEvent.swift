internal import Glibc

/// Wakes a thread that waits in poll(2) or on a ring: an eventfd that any thread may signal.
public final class WakeEvent: Sendable {
  private let descriptor: OwnedDescriptor

  /// A new event, not signalled.
  public init() throws(SystemError) {
    descriptor = try OwnedDescriptor.event()
  }

  /// The number to wait on (readable means signalled). Never close it.
  public var rawValue: Int32 { descriptor.rawValue }

  /// Makes the event readable until the next `drain`. One system call; never blocks.
  public func signal() {
    var one: UInt64 = 1
    // The only error is EAGAIN, when 2^64 - 2 signals are pending: readable all the same.
    // unsafe: eight bytes of a local variable are read during the call.
    _ = unsafe write(descriptor.rawValue, &one, MemoryLayout<UInt64>.size)
  }

  /// Makes the event unreadable again; true when it had been signalled.
  @discardableResult
  public func drain() -> Bool {
    var count: UInt64 = 0
    // unsafe: eight bytes of a local variable are written during the call.
    let result = unsafe read(descriptor.rawValue, &count, MemoryLayout<UInt64>.size)
    return result == MemoryLayout<UInt64>.size
  }
}
