internal import Pages
public import System

/// The worker's side of its keeper: hands it duplicates of descriptors, and gives the worker those
/// that an earlier one has handed over.
///
/// Without a keeper, or when it has died, the same calls only remember: the next keeper, which
/// adopts the worker over its control socket, gets everything. Any thread may call; nothing blocks
/// but the start.
public final class KeeperClient: Sendable {
  private struct State {
    var channel: KeeperChannel?
    var keep = DescriptorKeep()
  }

  /// How long the keeper may take to hand over what it has: it does so at once.
  private static let handOverNanoseconds: UInt64 = 10_000_000_000

  private let state: Lock<State>
  /// What an earlier worker had handed over, oldest first: to be used before anything is looked for
  /// elsewhere.
  public let inherited: [KeptDescriptor]

  /// A worker that nobody watches.
  public init() {
    state = Lock(State())
    inherited = []
  }

  /// The worker's end of the channel, as it was inherited under that number: receives all that the
  /// keeper has. ETIMEDOUT when it does not hand it over; EPIPE when it dies meanwhile, with which
  /// something of it may be lost.
  public init(inheritedNumber number: Int32) throws(SystemError) {
    let channel = KeeperChannel(
      DescriptorStream(adopting: try InheritedDescriptor.take(number)))
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.handOverNanoseconds)
    var keep = DescriptorKeep()
    receiving: while true {
      switch try channel.receive(until: deadline) {
      case .kept(let kept):
        guard keep.add(kept) else { throw SystemError("recvmsg", kept.name, .noSpace) }
      case .told(.handedOver): break receiving
      case .told(.keep), .told(.release), .told(.finished):
        throw SystemError("recvmsg", "the keeper's message is a worker's", .invalidArgument)
      case .ended: throw SystemError("recvmsg", "the keeper is gone", .brokenPipe)
      case .nothing: throw SystemError("recvmsg", "the keeper's descriptors", .timedOut)
      }
    }
    inherited = keep.descriptors
    state = Lock(State(channel: channel, keep: keep))
  }

  /// Whether another process keeps what was handed over.
  public var hasKeeper: Bool {
    state.withLock { state in state.channel.map { !$0.hasEnded } ?? false }
  }

  /// A duplicate of the first inherited descriptor of that name.
  public func inheritedDuplicate(named name: String) throws(SystemError) -> OwnedDescriptor? {
    guard let kept = inherited.first(where: { $0.name == name }) else { return nil }
    return try kept.descriptor.duplicate()
  }

  /// Has a duplicate kept as long as nothing is released. ENOSPC when too many are kept already.
  public func keep(
    _ name: String, _ descriptor: borrowing OwnedDescriptor
  ) throws(SystemError) {
    invariant(KeeperMessage.isFit(name), "a descriptor's name is short and has no blanks")
    let kept = KeptDescriptor(name: name, try descriptor.duplicate())
    try state.withLock { state throws(SystemError) in
      guard state.keep.add(kept) else { throw SystemError("sendmsg", name, .noSpace) }
      Self.tell(&state) { channel throws(SystemError) in try channel.send(kept) }
    }
  }

  /// Nothing needs to be kept any more: all pages are here and the memory is unregistered, or the
  /// VMM was ended.
  public func release() {
    state.withLock { state in
      state.keep.release()
      Self.tell(&state) { channel throws(SystemError) in try channel.send(.release) }
    }
  }

  /// The worker's last word: a keeper that is not its parent learns its exit code from nothing
  /// else.
  public func finished(exitCode: Int32) {
    state.withLock { state in
      Self.tell(&state) { channel throws(SystemError) in
        try channel.send(.finished(exitCode: exitCode))
      }
    }
  }

  /// Takes another process as the keeper and hands it all that is held. False when there is one
  /// already: two would both restart the worker.
  func adopt(_ stream: consuming DescriptorStream) -> Bool {
    let channel = KeeperChannel(stream)
    return state.withLock { state in
      if let present = state.channel, !present.hasEnded { return false }
      state.channel = channel
      let held = state.keep.descriptors
      Self.tell(&state) { channel throws(SystemError) in
        for kept in held { try channel.send(kept) }
        try channel.send(.handedOver)
      }
      return true
    }
  }

  /// A keeper that is gone is no trouble of the session's: what is held here is held all the same.
  private static func tell(
    _ state: inout State, _ body: (KeeperChannel) throws(SystemError) -> Void
  ) {
    guard let channel = state.channel else { return }
    do throws(SystemError) {
      try body(channel)
    } catch {
      state.channel = nil
    }
  }
}
