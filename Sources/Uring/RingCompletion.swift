internal import Glibc
internal import Pages
public import System

/// What the caller gives an operation and finds again in its completion.
public struct RingTag: RawRepresentable, Hashable, Sendable {
  /// Any number.
  public let rawValue: UInt32

  /// The tag of that number.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  init(userData: UInt64) { rawValue = UInt32(truncatingIfNeeded: userData) }
}

/// What a poll waits for, and finds.
public struct PollReadiness: OptionSet, Hashable, Sendable {
  /// poll(2)'s bits.
  public let rawValue: UInt32

  /// Takes poll(2)'s bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// POLLIN: there is something to read.
  public static let readable = PollReadiness(rawValue: UInt32(POLLIN))
  /// POLLOUT: there is room to write.
  public static let writable = PollReadiness(rawValue: UInt32(POLLOUT))
  /// POLLERR. On a userfaultfd: not initialised, or blocking.
  public static let error = PollReadiness(rawValue: UInt32(POLLERR))
  /// POLLHUP: the peer is gone.
  public static let hangUp = PollReadiness(rawValue: UInt32(POLLHUP))
}

/// The kinds of operation, as they stand in an entry's user data above the tag.
enum RingOperation: UInt8 {
  case poll = 1
  case receive = 2
  case send = 3
  case cancel = 4

  func userData(_ tag: RingTag) -> UInt64 { UInt64(rawValue) << 32 | UInt64(tag.rawValue) }

  init(userData: UInt64) {
    guard let operation = RingOperation(rawValue: UInt8(truncatingIfNeeded: userData >> 32)) else {
      invariantBroken("a completion carries what its operation was given")
    }
    self = operation
  }
}

/// How an operation ended.
public enum Completion: Hashable, Sendable {
  /// A poll found the descriptor ready.
  case ready(RingTag, PollReadiness)
  /// A receive brought that many bytes, at least one.
  case received(RingTag, byteCount: Int)
  /// The peer has shut its side: there is nothing more to receive.
  case endOfStream(RingTag)
  /// A `sendNow` ended with that many bytes gone, because there was no room for the rest. Wait
  /// for `writable` and send on from there.
  case sendFellShort(RingTag, byteCount: Int)
  /// The connection is gone. ECONNRESET: the peer reset it or its process died; EPIPE: it was shut
  /// before our send; ETIMEDOUT: TCP_USER_TIMEOUT; EHOSTUNREACH, ENETUNREACH: no way there.
  case connectionLost(RingTag, Errno)
  /// `Ring.cancelAll` ended it.
  case cancelled(RingTag)
  /// Any other error: EBADF and ENOTSOCK are bugs of ours, ENOMEM and ENOBUFS the host's lack.
  case failed(RingTag, Errno)

  init(operation: RingOperation, tag: RingTag, result: Int32) {
    guard result >= 0 else {
      self = Self.failure(operation, tag, Errno(rawValue: -result))
      return
    }
    self =
      switch operation {
      case .poll: .ready(tag, PollReadiness(rawValue: UInt32(result)))
      case .receive: result == 0 ? .endOfStream(tag) : .received(tag, byteCount: Int(result))
      case .send: .sendFellShort(tag, byteCount: Int(result))
      case .cancel: .cancelled(tag)
      }
  }

  private static func failure(
    _ operation: RingOperation, _ tag: RingTag, _ errno: Errno
  ) -> Completion {
    switch (operation, errno.rawValue) {
    case (.cancel, _), (_, ECANCELED): .cancelled(tag)
    case (.send, EAGAIN): .sendFellShort(tag, byteCount: 0)
    // A signal before the first byte: nothing happened.
    case (.send, EINTR): .sendFellShort(tag, byteCount: 0)
    case (.send, EPIPE), (.send, ECONNRESET), (.receive, ECONNRESET), (_, ETIMEDOUT),
      (_, EHOSTUNREACH), (_, ENETUNREACH), (_, ENOTCONN):
      .connectionLost(tag, errno)
    default: .failed(tag, errno)
    }
  }
}

/// A fixed number of completions, owned by the caller and filled by `Ring.reap`.
public struct CompletionBatch: ~Copyable {
  /// More than one thread ever has in flight, so that one reaping usually takes all.
  public static let capacity = 16

  private var completions = [16 of Completion](repeating: .cancelled(RingTag(rawValue: 0)))
  /// How many are in the batch.
  public private(set) var count = 0

  /// An empty batch.
  public init() {}

  /// The completion at a position below `count`.
  public subscript(position: Int) -> Completion {
    invariant(position < count, "a completion's position lies below the batch's count")
    return completions[position]
  }

  var isFull: Bool { count == Self.capacity }

  mutating func removeAll() { count = 0 }

  mutating func append(_ completion: Completion) {
    completions[count] = completion
    count += 1
  }
}
