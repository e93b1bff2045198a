internal import Codec
internal import Pages
internal import Uring
internal import Wire

/// The bytes on their way out on the urgent connection: the first part of the ring's memory.
///
/// One send is under way at a time, and ends inside the `io_uring_enter` that submits it; what is
/// added meanwhile goes out with the next one.
///
/// Under TLS the bytes are sealed into a part of their own first, all that wait at once, and sent
/// from there.
struct RequestOutbox {
  static let tag = RingTag(rawValue: 5)
  /// 2048 requests: more than a VM has faults open.
  static let byteCount = 65_536
  /// The largest control frame: a refusal with its reason.
  private static let maximumMessageByteCount =
    WireLimits.headerByteCount + 12 + WireLimits.maximumReasonByteCount

  /// Room for all of them once they are sealed.
  static let sealedByteCount = Connection.sealedByteCount(of: byteCount)

  private var start = 0
  private var end = 0
  /// Where the room for sealed bytes starts in the ring's memory, and which of them are to be sent.
  private let sealedBase: Int
  private var sealedStart = 0
  private var sealedEnd = 0
  /// Bytes of the send that was queued last; 0 when none is.
  private var queuedByteCount = 0
  private var isQueuedTaken = false
  private var shortByteCount: Int?
  /// Whether the peer's buffer is full, and the ring waits for room.
  private(set) var isBlocked = false
  private var isPolling = false
  private var isCleared = false

  init(sealedBase: Int) { self.sealedBase = sealedBase }

  var isEmpty: Bool { start == end && !hasSealedBytes }
  /// Whether part of what was sealed is still to be sent.
  var hasSealedBytes: Bool { sealedStart < sealedEnd }
  var hasRoomForRequests: Bool { Self.byteCount - end >= WireLimits.headerByteCount }
  var hasRoomForMessage: Bool { Self.byteCount - end >= Self.maximumMessageByteCount }

  /// Whether bytes came behind a send that was handed over early: they can be queued as soon as it
  /// is settled, and no completion may come to say so.
  var hasBytesBehindSend: Bool {
    queuedByteCount > 0 && (hasSealedBytes ? start < end : start + queuedByteCount < end)
  }

  mutating func append(_ header: FrameHeader, to ring: inout Ring) {
    invariant(hasRoomForRequests, "a request is appended where it fits")
    var bytes = ring.mutableBytes(end..<end + WireLimits.headerByteCount)
    header.encode(into: &bytes)
    end += WireLimits.headerByteCount
  }

  mutating func append(_ frame: [UInt8], to ring: inout Ring) {
    invariant(Self.byteCount - end >= frame.count, "a message is appended where it fits")
    ring.store(frame.rawBytes, at: end)
    end += frame.count
  }

  /// Seals what waits, unless sealed bytes are under way already; nothing without TLS.
  mutating func seal(_ ring: inout Ring, for connection: Connection) throws(ConnectionError) {
    guard connection.isSealed, !hasSealedBytes, start < end else { return }
    let count = try ring.seal(
      start..<end, into: sealedBase..<sealedBase + Self.sealedByteCount, of: connection)
    sealedStart = sealedBase
    sealedEnd = sealedBase + count
    start = 0
    end = 0
  }

  /// Queues what is to be sent, or the wait for room.
  mutating func queueSend(_ ring: inout Ring, _ descriptor: Int32) throws(RingError) {
    if isBlocked {
      guard !isPolling else { return }
      try ring.poll(descriptor, for: .writable, tag: Self.tag)
      isPolling = true
    } else if queuedByteCount == 0, !isEmpty {
      let bytes = hasSealedBytes ? sealedStart..<sealedEnd : start..<end
      try ring.sendNow(to: descriptor, from: bytes, tag: Self.tag)
      queuedByteCount = bytes.count
      isQueuedTaken = false
    }
  }

  /// After a submit whose completions were reaped.
  mutating func noteSubmitted(isTaken: Bool) {
    if queuedByteCount > 0, isTaken { isQueuedTaken = true }
  }

  mutating func noteShort(_ byteCount: Int) { shortByteCount = byteCount }

  mutating func noteWritable() {
    isPolling = false
    isBlocked = false
  }

  /// After all completions were looked at: what was sent is gone.
  mutating func settle() {
    guard queuedByteCount > 0, isQueuedTaken else { return }
    let sentByteCount = shortByteCount ?? queuedByteCount
    if hasSealedBytes { sealedStart += sentByteCount } else { start += sentByteCount }
    isBlocked = shortByteCount != nil
    queuedByteCount = 0
    shortByteCount = nil
    if isCleared { clear() }
    if start == end {
      start = 0
      end = 0
    }
  }

  /// The link is gone, and with it what was to be sent. The ring may still hold an operation on its
  /// socket: see `isIdle`.
  mutating func clear() {
    isCleared = true
    sealedStart = sealedEnd
    isBlocked = false
    start = end
  }

  /// Whether the ring has nothing of ours: only then may another socket take over, with an outbox
  /// of its own.
  var isIdle: Bool { queuedByteCount == 0 && !isPolling }
}
