internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// Room for the messages of one read, allocated once by whoever reads.
///
/// One thread uses it at a time. Descriptors of forked children that nobody took are closed at the
/// next read and at the end.
@safe
public struct UserfaultMessageBuffer: ~Copyable, @unchecked Sendable {
  /// One message takes 32 bytes.
  public static let messageByteCount = MemoryLayout<uffd_abi_message>.stride
  /// 64 messages are 2 KiB: more faults than a VM of our size has vCPUs, read by one system call.
  public static let defaultCapacity = 64

  /// How many messages one read can bring.
  public let capacity: Int
  /// How many messages the last read brought.
  public private(set) var count = 0
  private let messages: UnsafeMutablePointer<uffd_abi_message>

  /// Room for `capacity` messages, at least one.
  public init(capacity: Int = Self.defaultCapacity) {
    invariant(capacity > 0, "a message buffer has room for a message")
    self.capacity = capacity
    unsafe self.messages = .allocate(capacity: capacity)
    unsafe self.messages.initialize(repeating: uffd_abi_message(), count: capacity)
  }

  // unsafe: allocated in init with this type, and the only owner goes away here.
  deinit {
    unsafe Self.closeForkedDescriptors(
      UnsafeMutableBufferPointer(start: messages, count: count))
    unsafe messages.deallocate()
  }

  /// The event at `position`, counted from 0 and below `count`.
  public subscript(position: Int) -> UserfaultEvent {
    invariant(position >= 0 && position < count, "an event is one of those that were read")
    // unsafe: position is below count, which is at most the allocated capacity.
    return unsafe UserfaultEvent(messages[position])
  }

  /// The userfaultfd of the child that the event at `position` tells of; nil when that event is no
  /// fork, or its descriptor was taken already.
  public mutating func takeForkedDescriptor(
    at position: Int
  ) throws(UFFDError) -> UserfaultDescriptor? {
    invariant(position >= 0 && position < count, "an event is one of those that were read")
    // unsafe: position is below count, which is at most the allocated capacity.
    guard let number = unsafe Self.forkedDescriptor(in: messages[position]) else { return nil }
    unsafe messages[position].argument0 = Self.takenDescriptor
    return try UserfaultDescriptor(adopting: OwnedDescriptor(adopting: number))
  }

  /// Forgets what was read and gives the memory for the next read(2) on the descriptor, for callers
  /// that read by a ring. The memory must not be written to after `endRead`.
  public mutating func beginRead() -> UnsafeMutableRawBufferPointer {
    unsafe Self.closeForkedDescriptors(
      UnsafeMutableBufferPointer(start: messages, count: count))
    count = 0
    return unsafe UnsafeMutableRawBufferPointer(
      start: messages, count: capacity * Self.messageByteCount)
  }

  /// Takes over what read(2) put into the memory of `beginRead`: its positive answer.
  public mutating func endRead(byteCount: Int) {
    invariant(
      byteCount >= 0 && byteCount <= capacity * Self.messageByteCount
        && byteCount.isMultiple(of: Self.messageByteCount),
      "a userfaultfd is read in whole messages")
    // Exact: checked above.
    count = byteCount / Self.messageByteCount
  }

  /// Stands where a forked child's descriptor was; no descriptor has this number.
  private static let takenDescriptor = UInt64(UInt32.max)

  private static func forkedDescriptor(in message: uffd_abi_message) -> Int32? {
    guard message.event == uffd_event_fork, message.argument0 != takenDescriptor else { return nil }
    return Int32(truncatingIfNeeded: message.argument0)
  }

  private static func closeForkedDescriptors(
    _ messages: UnsafeMutableBufferPointer<uffd_abi_message>
  ) {
    // unsafe: the caller gives only messages that were read, inside its own allocation.
    for position in messages.indices {
      if let number = unsafe forkedDescriptor(in: messages[position]) { _ = close(number) }
    }
  }
}
