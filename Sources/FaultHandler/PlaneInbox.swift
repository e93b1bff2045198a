internal import Pages
internal import Synchronization
internal import System
internal import Uring
internal import Wire

/// What other threads want of the fault thread.
final class PlaneInbox: Sendable {
  /// Control messages that may wait to be sent: more than a hand-over has.
  static let capacity = 128

  /// What is handled in its order.
  enum Item: Sendable {
    /// Send it on the link that is up; without one it is dropped, for the cores say again whatever
    /// must arrive.
    case message(ControlMessage)
    /// From here on this is the urgent connection, of the link with that number.
    case link(Connection, number: UInt32)
    /// Tell the source why, then end the link of that number.
    case farewell(Farewell)
    /// Look at the wishes.
    case nudge
  }

  /// The last word on a link that the session has given up.
  struct Farewell: Sendable {
    let refusal: Refusal
    let link: UInt32
    /// Signalled once it is said, or cannot be.
    let isOver: WakeEvent
  }

  /// Wishes, as bits: setting one twice is the same as once.
  struct Wishes: OptionSet, Sendable {
    let rawValue: UInt32
    /// Answer faults from now on.
    static let startFaults = Wishes(rawValue: 1)
    /// Ask for what no push has brought.
    static let sweepMissing = Wishes(rawValue: 2)
    /// Ask again for all that was asked for.
    static let repeatRequests = Wishes(rawValue: 4)
    /// Unregister everything and drain the last events; the link goes on.
    static let unregister = Wishes(rawValue: 8)
    /// Send what waits and end; leave everything else as it is.
    static let stop = Wishes(rawValue: 16)
  }

  private let mailbox: Mailbox<Item>
  private let wishes = Atomic<UInt32>(0)
  private let isStopping = Atomic<Bool>(false)

  init() throws(SystemError) { mailbox = try Mailbox(capacity: Self.capacity) }

  /// Signalled while something waits.
  var readiness: WakeEvent { mailbox.readiness }

  /// False when too many messages wait to be sent already.
  func post(_ message: ControlMessage) -> Bool { mailbox.post(.message(message), leaving: 2) }

  /// False when so many messages wait that the source takes nothing: it will not be told.
  func post(_ farewell: Farewell) -> Bool { mailbox.post(.farewell(farewell), leaving: 2) }

  /// A new link is never refused for want of room: the session makes one only after the last one
  /// is gone, and with it what waited for it.
  func post(_ urgent: Connection, link: UInt32) {
    invariant(mailbox.post(.link(urgent, number: link)), "the inbox keeps room for a link")
  }

  func post(_ wish: Wishes) {
    if wish.contains(.stop) { isStopping.store(true, ordering: .releasing) }
    wishes.bitwiseOr(wish.rawValue, ordering: .releasing)
    // A full mailbox wakes the thread just as well, and the wishes are looked at afterwards.
    _ = mailbox.post(.nudge, leaving: 1)
  }

  /// Whether the threads are to end: asked by those that retry something.
  var isEnding: Bool { isStopping.load(ordering: .acquiring) }

  /// The oldest message or link. Nudges are taken out on the way.
  func take() -> Item? {
    while let item = mailbox.take() {
      if case .nudge = item { continue }
      return item
    }
    return nil
  }

  /// All wishes since the last call.
  func takeWishes() -> Wishes {
    Wishes(rawValue: wishes.exchange(0, ordering: .acquiringAndReleasing))
  }
}
