internal import Glibc
public import Pages
internal import Synchronization
public import System

/// The TLS session of one connection. Its lock is held while OpenSSL works on bytes that are there,
/// never while anybody waits: a sender, a receiver and whoever shuts down may be three threads.
final class TLSSession: Sendable {
  let engine: Lock<TLSEngine>

  init(_ engine: consuming sending TLSEngine) { self.engine = Lock(engine) }
}

extension Connection {
  /// Whether TLS seals and vouches for the bytes.
  public var isSealed: Bool { tls != nil }

  /// Goes on with the TLS handshake as far as what has come allows; true when it is over, and at
  /// once without TLS. Never blocks: for the side that has others to look after.
  public func advanceHandshake() throws(ConnectionError) -> Bool {
    guard let tls else { return true }
    let step = tls.engine.withLock { $0.shakeHands() }
    switch step {
    case .moved: return true
    // No room for a few KiB in a fresh socket: the peer takes nothing, and its time runs.
    case .needsInput, .needsRoom: return false
    case .closed, .cut, .failedCall, .failed: throw error(step, "TLS handshake")
    }
  }

  /// Brings the TLS handshake to its end; nothing without TLS.
  public func shakeHands(
    until deadline: Instant, cancel: WakeEvent? = nil
  ) throws(ConnectionError) {
    guard let tls else { return }
    while true {
      let step = tls.engine.withLock { $0.shakeHands() }
      if case .moved = step { return }
      try wait(for: step, "TLS handshake", until: deadline, cancel: cancel)
    }
  }

  /// Changes the key for what is sent from here on, and asks the peer to change its own: by
  /// themselves both sides do so long before a key has served too often.
  public func changeKeys() {
    tls?.engine.withLock { $0.requestKeyChange(ofBoth: true) }
  }

  /// Sends bytes below TLS, to a peer that turned out to speak none, as far as there is room.
  public func sendInClear(_ bytes: RawSpan) {
    unsafe bytes.withUnsafeBytes { buffer in
      // unsafe: the span is valid during the call. A peer that does not take it need not know.
      _ = unsafe Glibc.send(
        descriptor.rawValue, buffer.baseAddress, buffer.count,
        SocketFlags.noSignal | SocketFlags.dontWait)
    }
  }

  // MARK: What the plain functions do with TLS

  func sendSealed(
    _ buffer: UnsafeRawBufferPointer, _ tls: TLSSession, hasMore: Bool, until deadline: Instant?
  ) throws(ConnectionError) {
    var sent = 0
    while sent < buffer.count {
      let end = min(sent + TLSEngine.recordByteCount, buffer.count)
      // unsafe: sent < end <= count, so the slice lies inside the span.
      let record = unsafe UnsafeRawBufferPointer(rebasing: buffer[sent..<end])
      let step = tls.engine.withLock { engine in
        unsafe engine.write(record, hasMore: hasMore || end < buffer.count)
      }
      if case .moved(let count) = step {
        sent += count
      } else {
        try wait(for: step, "send", until: deadline, cancel: nil)
      }
    }
    while let step = tls.engine.withLock({ $0.flush() }) {
      try wait(for: step, "send", until: deadline, cancel: nil)
    }
  }

  func trySendSealed(
    _ buffer: UnsafeRawBufferPointer, _ tls: TLSSession
  ) throws(ConnectionError) -> Int {
    let step = tls.engine.withLock { unsafe $0.write(buffer, hasMore: false) }
    switch step {
    case .moved(let count): return count
    case .needsInput, .needsRoom: return 0
    case .closed, .cut, .failedCall, .failed: throw error(step, "send")
    }
  }

  func receiveSealed(
    into buffer: UnsafeMutableRawBufferPointer, _ tls: TLSSession, until deadline: Instant?
  ) throws(ConnectionError) -> Int {
    while true {
      let step = tls.engine.withLock { unsafe $0.read(into: buffer) }
      if case .moved(let count) = step { return count }
      try wait(for: step, "recv", until: deadline, cancel: nil)
    }
  }

  func tryReceiveSealed(
    into buffer: UnsafeMutableRawBufferPointer, _ tls: TLSSession
  ) throws(ConnectionError) -> Int? {
    let step = tls.engine.withLock { unsafe $0.read(into: buffer) }
    switch step {
    case .moved(let count): return count
    case .needsInput, .needsRoom: return nil
    case .closed, .cut, .failedCall, .failed: throw error(step, "recv")
    }
  }

  /// What the session has taken from the socket no poll sees any more: it is looked at first.
  func waitReadableSealed(
    _ tls: TLSSession, or event: WakeEvent?, until deadline: Instant?
  ) throws(ConnectionError) -> SocketReadiness {
    let isReadable = tls.engine.withLock { $0.hasBuffered && $0.isReadable() }
    guard isReadable else {
      return try wait("poll", events: POLLIN, until: deadline, cancel: event)
    }
    guard let event else { return .ready }
    let now = try wait("poll", events: 0, until: Instant(nanoseconds: 0), cancel: event)
    return now == .cancelled ? .cancelled : .ready
  }

  /// Says goodbye under TLS; the end of the stream follows.
  func sayGoodbye() {
    guard let tls else { return }
    tls.engine.withLock { $0.close() }
  }

  private func wait(
    for step: TLSStep, _ operation: StaticOperation, until deadline: Instant?, cancel: WakeEvent?
  ) throws(ConnectionError) {
    let events: Int32
    switch step {
    case .needsInput: events = POLLIN
    case .needsRoom: events = POLLOUT
    case .moved, .closed, .cut, .failedCall, .failed: throw error(step, operation)
    }
    switch try wait(operation, events: events, until: deadline, cancel: cancel) {
    case .ready: return
    case .cancelled: throw ConnectionError(.cancelled, operation, peer: peer.description)
    case .timedOut: throw ConnectionError(.timedOut, operation, peer: peer.description)
    }
  }

  /// What the end of a session means; a stream that was shut down here ends for that reason alone.
  private func error(_ step: TLSStep, _ operation: StaticOperation) -> ConnectionError {
    switch step {
    case .closed: return endOfStream(operation)
    case .failedCall(let errno): return failure(operation, errno)
    case .cut: return ended(.cut, operation)
    case .failed(let failure): return ended(.tls(failure), operation)
    case .moved, .needsInput, .needsRoom: invariantBroken("a step that goes on is no error")
    }
  }

  // MARK: On a ring

  /// What a call of `Ring.open` did.
  public struct Opened: Hashable, Sendable {
    /// Sealed bytes that were used up.
    public let sealedByteCount: Int
    /// Plain bytes that are there now.
    public let byteCount: Int
    /// Whether another call may give more, or the end: else it need not be made.
    public let mayHaveMore: Bool
  }

  /// Leaves the socket to a ring from now on; without TLS nothing changes. What the handshake has
  /// brought already is found by opening nothing.
  public func enterRing() { tls?.engine.withLock { $0.enterRing() } }

  /// Takes the socket back. `betweenRecords`: whether all that was sealed has been sent.
  public func leaveRing(betweenRecords: Bool) {
    tls?.engine.withLock { $0.leaveRing(betweenRecords: betweenRecords) }
  }

  /// How much room sealing so many bytes may take.
  public static func sealedByteCount(of plainByteCount: Int) -> Int {
    TLSEngine.sealedByteCount(of: plainByteCount)
  }

  func open(
    _ sealed: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer
  ) throws(ConnectionError) -> Opened {
    guard let tls else { invariantBroken("what is opened came on a sealed connection") }
    let (taken, opened, end) = tls.engine.withLock { unsafe $0.open(sealed, into: room) }
    // What came before the end is handled first: the end is met again by the next call.
    if let end, opened == 0 { throw error(end, "recv") }
    return Opened(
      sealedByteCount: taken, byteCount: opened, mayHaveMore: end != nil || opened == room.count)
  }

  func seal(
    _ plain: UnsafeRawBufferPointer, into room: UnsafeMutableRawBufferPointer
  ) throws(ConnectionError) -> Int {
    guard let tls else { invariantBroken("what is sealed goes out on a sealed connection") }
    let (sealed, end) = tls.engine.withLock { unsafe $0.seal(plain, into: room) }
    if let end {
      if case .needsRoom = end { invariantBroken("what is sealed has room") }
      throw error(end, "send")
    }
    return sealed
  }
}
