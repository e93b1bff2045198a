internal import CLinux
internal import Glibc
public import Pages

/// A bounded queue from any thread to one thread that waits for it, alone or beside descriptors.
///
/// The queue never grows beyond its capacity and never blocks a sender: when it is full, `post`
/// says so, and the sender has to have an answer to that.
public final class Mailbox<Message: Sendable>: Sendable {
  private struct Slots {
    var ring: [Message?]
    var first = 0
    var count = 0
  }

  private let slots: Lock<Slots>
  private let capacity: Int
  private let event: WakeEvent

  /// A queue for `capacity` messages, all of whose memory is allocated now.
  public init(capacity: Int) throws(SystemError) {
    invariant(capacity > 0, "a mailbox holds at least one message")
    self.capacity = capacity
    slots = Lock(Slots(ring: [Message?](repeating: nil, count: capacity)))
    event = try WakeEvent()
  }

  /// Signalled while messages wait, for poll or a ring. Never drain it: call `take` until nil.
  public var readiness: WakeEvent { event }

  /// Appends a message and wakes the receiver; false when the queue is full and nothing was done.
  /// `reserve` places count as taken: for a message that must always find room.
  public func post(_ message: Message, leaving reserve: Int = 0) -> Bool {
    let position: Int? = slots.withLock { slots in
      guard slots.count < capacity - reserve else { return nil }
      slots.ring[(slots.first + slots.count) % capacity] = message
      slots.count += 1
      return slots.count
    }
    guard let position else { return false }
    if position == 1 { event.signal() }
    return true
  }

  /// The oldest message, nil when there is none. Never blocks. For the receiving thread alone.
  public func take() -> Message? {
    let (message, isEmpty): (Message?, Bool) = slots.withLock { slots in
      guard slots.count > 0 else { return (nil, true) }
      let message = slots.ring[slots.first]
      slots.ring[slots.first] = nil
      slots.first = (slots.first + 1) % capacity
      slots.count -= 1
      return (message, slots.count == 0)
    }
    if isEmpty { rearm() }
    return message
  }

  /// Waits for a message until `deadline` (nil: for ever); nil when the deadline came first.
  public func receive(until deadline: Instant? = nil) -> Message? {
    while true {
      if let message = take() { return message }
      guard waitReadable(until: deadline) else { return take() }
    }
  }

  /// False when the deadline passed.
  private func waitReadable(until deadline: Instant?) -> Bool {
    while true {
      var timeout: Int32 = -1
      if let deadline {
        let left = deadline.nanoseconds(since: MonotonicClock.now())
        if left == 0 { return false }
        // Rounded up, so that the wait does not end just before its deadline and spin.
        timeout = Int32(min(left / 1_000_000 + 1, 1_000_000))
      }
      var entry = pollfd(fd: event.rawValue, events: Int16(POLLIN), revents: 0)
      let ready = unsafe poll(&entry, 1, timeout)
      if ready > 0 { return true }
      invariant(ready == 0 || errno == EINTR, "poll on an eventfd only times out or is interrupted")
    }
  }

  /// Clears the event when the queue is empty, and sets it again if a message slipped in between.
  private func rearm() {
    event.drain()
    let hasMessages = slots.withLock { slots in slots.count > 0 }
    if hasMessages { event.signal() }
  }
}
