public import Pages
public import System
public import UFFD
public import Uring
public import Wire

/// What the data plane tells the session. Everything that is not about the peer is said once.
public enum DataPlaneEvent: Sendable {
  /// The source said something on the urgent connection.
  case control(ControlMessage)
  /// The VM's device state is here, whole.
  case deviceState([UInt8])
  /// So many pages were named as stale seeds, and are gone.
  case discarded(PageCount)
  /// Every bulk connection has brought all that its side had to push.
  case pushFinished
  /// No page is missing or asked for any more; seeds may still have to be installed.
  case allHere
  /// No page is missing, asked for or staged any more. Stands for `allHere` as well when both come
  /// at once.
  case allResident
  /// A connection ended. `position` counts the bulk connections; 0 for the urgent one.
  case linkLost(ConnectionRole, position: Int, ConnectionError)
  /// The peer broke the protocol, or refused to go on; nothing more is used of the connection.
  /// `dropLink` ends it.
  case protocolViolation(ConnectionRole, position: Int, ProtocolViolation)
  /// The VMM's process is gone.
  case vmmGone
  /// This host has no memory for a page. The page stays missing and its waiter waits; when there is
  /// memory again, `DestinationDataPlane.retryAfterMemoryPressure` goes on.
  case memoryPressure(PageRun)
  /// Pages could not be installed because the VMM's mapping is not what it was. Fatal for the VM:
  /// the guest keeps waiting.
  case mappingLost(PageRun)
  /// A page that was seeded in place is stale, or half written, and cannot be taken out of the
  /// guest's memory: the VM must not run here. Said before any fault is answered.
  case staleInPlace(Errno)
  /// An event of the VMM that is read behind the last seed holds up seeds that were to go in place:
  /// their pages are missing, which costs no more than their coming again.
  case seedsHeldUp
  /// Somebody waits at an address that belongs to no region, and will go on waiting.
  case faultOutsideRegions(HostAddress)
  /// The VMM's address space changed. `unmap` is harmless: those pages are not needed any more.
  /// `remap`: the pages are not where they were told to be, and pages that are still missing cannot
  /// be installed. `fork`: the child shares the memory, its own missing pages are never served, and
  /// it waits there for ever.
  case addressSpaceChanged(UserfaultEvent)
  /// The page was poisoned at the source and this kernel cannot do the same (before 6.6): whoever
  /// touches it waits.
  case poisonNotSupported(PageID)
  /// The kernel answered what has no meaning here. Pages may stay missing; the guest waits.
  case userfaultFailed(UFFDError)
  /// The fault thread cannot go on.
  case ringFailed(RingError)
}

/// What a peer did wrong, or why it goes no further.
public enum ProtocolViolation: Error, Hashable, Sendable, CustomStringConvertible {
  /// A frame that is not allowed, or does not mean anything.
  case frame(WireError)
  /// No breach of the protocol: the source gave the session up, and says why.
  case refused(Refusal)
  /// More control messages than `DataPlaneEvents.maximumControlMessageCount` wait to be handled.
  case tooManyControlMessages
  /// The pieces of the device state are longer together than `WireLimits` allow.
  case deviceStateTooLong
  /// More device state came behind its last piece.
  case deviceStateRepeated

  /// What a refuse frame says, or what is wrong with the frame.
  static func refusal(in payload: RawSpan) -> ProtocolViolation {
    do throws(WireError) { return .refused(try Refusal(decoding: payload)) } catch {
      return .frame(error)
    }
  }

  /// What the peer is told.
  var told: Refusal {
    switch self {
    case .frame(let error): error.refusal
    case .refused(let refusal): refusal
    case .tooManyControlMessages, .deviceStateTooLong, .deviceStateRepeated:
      Refusal(.protocolViolation, description)
    }
  }

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .frame(let error): error.description
    case .refused(let refusal): "the source gave the session up: \(refusal.reason)"
    case .tooManyControlMessages: "the peer sent control messages faster than they can be handled"
    case .deviceStateTooLong:
      "the device state is longer than \(WireLimits.maximumDeviceStateByteCount) bytes"
    case .deviceStateRepeated: "device state came again after its last piece"
    }
  }
}

/// The data plane's events, from its threads to the one that runs the session.
public final class DataPlaneEvents: Sendable {
  /// Control messages that may wait: a hand-over has a dozen, the rest are pings.
  public static let maximumControlMessageCount = 256
  /// Events of one kind that may repeat (faults outside, changes), after which they are dropped.
  static let maximumRepeatCount = 16
  /// Above the sum of all that can wait: control messages, two events for each connection, and
  /// those that are said once or a few times.
  private static let capacity = 512

  private let mailbox: Mailbox<Said>
  private let counts: Lock<Counts>

  /// What was said, and on which link; nil when it is about no link.
  private struct Said: Sendable {
    let event: DataPlaneEvent
    let link: UInt32?
  }

  private struct Counts {
    var waitingControlMessages = 0
    var said: Set<Kind> = []
    var link: UInt32 = 0
    var repeats = [Int](repeating: 0, count: RepeatingKind.allCases.count)
  }

  /// Events that are said once.
  enum Kind: Hashable, Sendable {
    case pushFinished, allHere, allResident, vmmGone, memoryPressure, mappingLost, staleInPlace
    case seedsHeldUp
    case poisonNotSupported, userfaultFailed, ringFailed, deviceState, discarded
    case link(UInt32, ConnectionRole, Int)
  }

  /// Events that are said a few times. Each has its own budget: many unmaps, which are harmless,
  /// must not hide the one remap.
  enum RepeatingKind: Int, CaseIterable {
    case faultOutsideRegions, unmap, remap, fork, otherChange

    init(change: UserfaultEvent) {
      switch change {
      case .unmap: self = .unmap
      case .remap: self = .remap
      case .fork: self = .fork
      case .fault, .remove, .unknown: self = .otherChange
      }
    }
  }

  init() throws(SystemError) {
    mailbox = try Mailbox(capacity: Self.capacity)
    counts = Lock(Counts())
  }

  /// Signalled while events wait.
  public var readiness: WakeEvent { mailbox.readiness }

  /// The oldest event; nil when there is none. For the session's thread alone.
  public func take() -> DataPlaneEvent? {
    while let said = mailbox.take() {
      if let event = current(said) { return event }
    }
    return nil
  }

  /// Waits for an event; nil when the deadline came first.
  public func receive(until deadline: Instant? = nil) -> DataPlaneEvent? {
    while let said = mailbox.receive(until: deadline) {
      if let event = current(said) { return event }
    }
    return nil
  }

  /// What was said on a link that has been given up means nothing any more.
  private func current(_ said: Said) -> DataPlaneEvent? {
    counts.withLock { counts in
      if case .control = said.event { counts.waitingControlMessages -= 1 }
      return said.link == nil || said.link == counts.link ? said.event : nil
    }
  }

  /// From now on only what is said on a new link counts; its number.
  func beginLink() -> UInt32 {
    counts.withLock { counts in
      counts.link += 1
      counts.said = counts.said.filter { kind in
        if case .link = kind { false } else { true }
      }
      return counts.link
    }
  }

  /// Says something unless it was said before.
  func sayOnce(_ kind: Kind, _ event: DataPlaneEvent) {
    guard counts.withLock({ $0.said.insert(kind).inserted }) else { return }
    var link: UInt32?
    if case .link(let number, _, _) = kind { link = number }
    post(event, on: link)
  }

  func hasSaid(_ kind: Kind) -> Bool { counts.withLock { $0.said.contains(kind) } }

  /// Lets an event of that kind be said again.
  func forget(_ kind: Kind) { counts.withLock { _ = $0.said.remove(kind) } }

  /// Says something that may happen again and again, up to a bound: the first ones tell it all.
  func sayAFewTimes(_ kind: RepeatingKind, _ event: DataPlaneEvent) {
    let isWorthSaying = counts.withLock { counts in
      counts.repeats[kind.rawValue] += 1
      return counts.repeats[kind.rawValue] <= Self.maximumRepeatCount
    }
    if isWorthSaying { post(event) }
  }

  /// False when too many wait already.
  func say(_ message: ControlMessage, on link: UInt32) -> Bool {
    let fits = counts.withLock { counts in
      guard counts.waitingControlMessages < Self.maximumControlMessageCount else { return false }
      counts.waitingControlMessages += 1
      return true
    }
    if fits { post(.control(message), on: link) }
    return fits
  }

  private func post(_ event: DataPlaneEvent, on link: UInt32? = nil) {
    invariant(
      mailbox.post(Said(event: event, link: link)),
      "the events' mailbox has room for all that can be said")
  }
}
