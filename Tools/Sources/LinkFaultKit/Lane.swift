internal import Pages

/// One direction of a link: what was received and not yet passed on, and what is done to it. It
/// knows no socket and no clock.
struct Lane {
  /// What was received at once, and when it may go.
  private struct Piece {
    var bytes: [UInt8]
    var sentByteCount = 0
    let due: Instant
  }

  /// What waits here at most; then no more is taken, and the sender's window fills as on a network
  /// whose routers have buffers.
  static let capacityByteCount = 4 << 20
  /// Most that is taken at once.
  static let pieceByteCount = 64 << 10

  var delayNanoseconds: UInt64 = 0
  /// Nothing in, nothing out.
  var isDropping = false
  /// Nothing in.
  var isStalled = false
  /// All in, nothing out.
  var isSwallowing = false
  var corruption: Corruption?
  private(set) var rateLimit: ByteRateLimit?
  /// Taken since the link was opened.
  private(set) var takenByteCount: UInt64 = 0
  /// Passed on to the receiver.
  private(set) var passedByteCount: UInt64 = 0
  private(set) var hasLostBytes = false
  /// The sender has ended its stream.
  var isEnded = false
  /// That was passed on.
  var hasPassedEnd = false
  /// No byte behind this offset is taken until whoever waits for it has been told.
  var watchedOffset: UInt64?

  private var pieces: [Piece] = []
  private var head = 0
  private var waitingByteCount = 0

  var isEmpty: Bool { head == pieces.count }

  /// Lets so many bytes a second pass, or all.
  mutating func setRate(bytesPerSecond: UInt64?) {
    // A burst of 10 ms, and at least one byte.
    rateLimit = bytesPerSecond.map {
      ByteRateLimit(bytesPerSecond: $0, burstByteCount: max(1, $0 / 100))
    }
  }

  /// How many bytes may be taken now.
  var roomByteCount: Int {
    guard !isDropping, !isStalled, !isEnded else { return 0 }
    let room = max(0, min(Self.pieceByteCount, Self.capacityByteCount - waitingByteCount))
    guard let watchedOffset else { return room }
    return Int(min(UInt64(room), watchedOffset - min(watchedOffset, takenByteCount)))
  }

  /// Whether the watched offset has been reached, and all before it was passed on.
  var hasReachedWatchedOffset: Bool {
    guard let watchedOffset else { return false }
    return takenByteCount >= watchedOffset && isEmpty
  }

  /// Takes bytes from the sender.
  mutating func take(_ bytes: [UInt8], now: Instant) {
    let start = takenByteCount
    takenByteCount += UInt64(bytes.count)
    if isSwallowing {
      hasLostBytes = true
      return
    }
    var bytes = bytes
    corruption?.apply(to: &bytes, startingAt: start)
    if corruption?.isOver ?? false { corruption = nil }
    waitingByteCount += bytes.count
    pieces.append(Piece(bytes: bytes, due: now.advanced(byNanoseconds: delayNanoseconds)))
  }

  /// What may go now; empty when nothing may.
  func sendable(now: Instant) -> ArraySlice<UInt8> {
    guard !isDropping, !isSwallowing, head < pieces.count, pieces[head].due <= now else {
      return []
    }
    let rest = pieces[head].bytes[pieces[head].sentByteCount...]
    guard let rateLimit else { return rest }
    guard rateLimit.momentAffordable(byteCount: UInt64(rest.count), now: now) <= now else {
      return []
    }
    return rest.prefix(Int(min(rateLimit.affordableByteCount(now: now), UInt64(rest.count))))
  }

  /// When something may go; nil when nothing waits, or is held back for good.
  func nextDue(now: Instant) -> Instant? {
    guard !isDropping, !isSwallowing, head < pieces.count else { return nil }
    let due = pieces[head].due
    guard due <= now, let rateLimit else { return due }
    // Not byte by byte: a packet for each keeps a processor busy at both ends.
    let waiting = UInt64(pieces[head].bytes.count - pieces[head].sentByteCount)
    return rateLimit.momentAffordable(byteCount: waiting, now: now)
  }

  /// Notes that so many of the sendable bytes went.
  mutating func sent(byteCount: Int, now: Instant) {
    rateLimit?.spend(byteCount: UInt64(byteCount), now: now)
    waitingByteCount -= byteCount
    passedByteCount += UInt64(byteCount)
    pieces[head].sentByteCount += byteCount
    guard pieces[head].sentByteCount == pieces[head].bytes.count else { return }
    head += 1
    if isEmpty {
      pieces.removeAll(keepingCapacity: true)
      head = 0
    } else if head == 64 {
      pieces.removeFirst(head)
      head = 0
    }
  }

  /// Throws away what waits: the receiver is gone.
  mutating func discardWaiting() {
    pieces.removeAll()
    head = 0
    waitingByteCount = 0
  }

  /// Ends what lasts. What waited in a black hole is lost like what came into it.
  mutating func clear() {
    if isSwallowing {
      hasLostBytes = hasLostBytes || !isEmpty
      discardWaiting()
    }
    delayNanoseconds = 0
    isDropping = false
    isStalled = false
    isSwallowing = false
    corruption = nil
    rateLimit = nil
  }
}
