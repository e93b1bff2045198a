internal import Codec
public import Pages
public import System
public import Uring
public import Wire

/// What a link is worth.
public struct LinkMeasurement: Hashable, Sendable {
  /// The median of some round trips.
  public var roundTripNanoseconds: UInt64
  /// What came, of frames as large as a push's.
  public var bytesPerSecond: Double
}

/// A connection on which two hosts only look whether a session could be. The destination asks, the
/// source answers: *ping* by *pong*, a *credit* by as much *filler*. Then the destination, and
/// behind it the source, say *ready* when nothing speaks against a move there, else *refuse*. One
/// thread uses it.
public struct LinkCheck: Sendable {
  /// Far above what a check takes: a destination that never ends is none.
  private static let longestNanoseconds: UInt64 = 120_000_000_000
  /// A peer that says nothing for so long is gone.
  private static let silenceNanoseconds: UInt64 = 10_000_000_000

  private let connection: Connection
  private let session: UInt32
  private let peer: Peer
  private let gate: FrameGate
  private let cancel: WakeEvent

  /// Behind hello and welcome. `cancel` ends it from another thread.
  public init(
    _ connection: Connection, with peer: Peer, session: SessionID, layout: ImageLayout,
    cancel: WakeEvent
  ) {
    self.connection = connection
    self.session = session.shortID
    self.cancel = cancel
    self.peer = peer
    gate = .session(from: peer, on: .check, session: session, layout: layout)
  }

  // MARK: The source

  /// Answers until the destination has come to an end, and tells it what speaks against a move
  /// here: nil when nothing speaks against one there, else what does.
  public func serve(_ own: Refusal?) throws(HandshakeError) -> Refusal? {
    let filler = fillerFrame(
      byteCount: WireLimits.maximumControlPayloadByteCount, isLast: false)
    let last = fillerFrame(byteCount: 1, isLast: true)
    let end = MonotonicClock.now().advanced(byNanoseconds: Self.longestNanoseconds)
    while true {
      let (header, payload) = try receive()
      guard MonotonicClock.now() < end else {
        throw .connection(
          ConnectionError(.timedOut, "check", peer: connection.peer.description))
      }
      switch header.type {
      case .ready:
        try say(own)
        return nil
      case .refuse:
        let refusal = try Self.refusal(payload)
        try say(own)
        return refusal
      case .credit:
        let total = try Self.granted(payload)
        var sent: UInt64 = 0
        while sent < total {
          try send(filler)
          sent += UInt64(filler.count)
        }
        try send(last)
      default: try answerPing(header, payload)
      }
    }
  }

  private func answerPing(_ header: FrameHeader, _ payload: [UInt8]) throws(HandshakeError) {
    let message = try message(header, payload)
    guard case .ping(let sequence) = message else { return }
    try send(ControlMessage.pong(sequence: sequence).encodedFrame(session: session))
  }

  private func fillerFrame(byteCount: Int, isLast: Bool) -> [UInt8] {
    let payload = [UInt8](repeating: 0x5a, count: byteCount)
    var frame: [UInt8] = []
    FrameHeader.payload(.filler, isLast: isLast, session: session, payload.rawBytes)
      .appendEncoded(to: &frame)
    return frame + payload
  }

  // MARK: The destination

  /// Measures the link, for somewhat less than a second unless it is slower than any over which a
  /// VM is moved.
  public func measure() throws(HandshakeError) -> LinkMeasurement {
    var roundTrips: [UInt64] = []
    for sequence in 0..<Self.pingCount {
      let start = MonotonicClock.now()
      try send(ControlMessage.ping(sequence: sequence).encodedFrame(session: session))
      let (header, payload) = try receive()
      guard case .pong(sequence) = try message(header, payload) else {
        throw misplaced(header)
      }
      roundTrips.append(MonotonicClock.now().nanoseconds(since: start))
    }
    roundTrips.sort()
    let roundTrip = roundTrips[roundTrips.count / 2]
    return LinkMeasurement(
      roundTripNanoseconds: roundTrip, bytesPerSecond: try rate(roundTripNanoseconds: roundTrip))
  }

  /// Tells the source what it came to here, and gives what it came to there.
  public func end(_ own: Refusal?) throws(HandshakeError) -> Refusal? {
    try say(own)
    let (header, payload) = try receive()
    switch header.type {
    case .ready: return nil
    case .refuse: return try Self.refusal(payload)
    default: throw misplaced(header)
    }
  }

  private func say(_ refusal: Refusal?) throws(HandshakeError) {
    let ready = ControlMessage.ready(epoch: Epoch(rawValue: 0)).encodedFrame(session: session)
    try send(refusal?.encodedFrame(session: session) ?? ready)
  }

  private static let pingCount: UInt64 = 15
  /// A window of TCP has grown by then.
  private static let firstProbeByteCount: UInt64 = 1 << 20
  private static let enoughNanoseconds: UInt64 = 300_000_000

  /// Asks for more and more until it took long enough to be a measure.
  private func rate(roundTripNanoseconds: UInt64) throws(HandshakeError) -> Double {
    var byteCount = Self.firstProbeByteCount
    while true {
      let start = MonotonicClock.now()
      try send(Credit.encodedFrame(total: ByteCount(rawValue: byteCount), session: session))
      var received: UInt64 = 0
      while true {
        let (header, payload) = try receive()
        guard header.type == .filler else { throw try refusedOrMisplaced(header, payload) }
        received += UInt64(payload.count)
        let isLast = header.flags.contains(.last)
        // At most one frame more than was asked for, and the last one.
        let most = byteCount + 2 * UInt64(WireLimits.maximumControlPayloadByteCount)
        guard received <= most, !isLast || received >= byteCount / 2 else {
          throw .wire(.value(.filler, .credit, found: received))
        }
        if isLast { break }
      }
      let elapsed = MonotonicClock.now().nanoseconds(since: start)
      let transfer = elapsed - min(elapsed, roundTripNanoseconds)
      if transfer >= Self.enoughNanoseconds || byteCount >= WireLimits.maximumProbeByteCount {
        return Double(received) * 1e9 / Double(max(transfer, 1))
      }
      byteCount = min(4 * byteCount, WireLimits.maximumProbeByteCount)
    }
  }

  // MARK: Both

  private var deadline: Instant {
    MonotonicClock.now().advanced(byNanoseconds: Self.silenceNanoseconds)
  }

  private func send(_ frame: [UInt8]) throws(HandshakeError) {
    do throws(ConnectionError) {
      try connection.send(frame.rawBytes, until: deadline)
    } catch { throw .connection(error) }
  }

  private func receive() throws(HandshakeError) -> (FrameHeader, [UInt8]) {
    let (header, payload) = try Handshake.receive(
      SingleFrame(gate), on: connection, until: deadline, or: cancel)
    return (header, payload)
  }

  private func refusedOrMisplaced(
    _ header: FrameHeader, _ payload: [UInt8]
  ) throws(HandshakeError) -> HandshakeError {
    header.type == .refuse ? .refused(try Self.refusal(payload)) : misplaced(header)
  }

  private func misplaced(_ header: FrameHeader) -> HandshakeError {
    .wire(.misplaced(header.type, from: peer, on: .check))
  }

  private static func refusal(_ payload: [UInt8]) throws(HandshakeError) -> Refusal {
    do throws(WireError) { return try Refusal(decoding: payload.rawBytes) } catch {
      throw .wire(error)
    }
  }

  private static func granted(_ payload: [UInt8]) throws(HandshakeError) -> UInt64 {
    do throws(WireError) {
      return min(
        try Credit.total(in: payload.rawBytes).rawValue, WireLimits.maximumProbeByteCount)
    } catch { throw .wire(error) }
  }

  /// A control message, or why there is none: a refusal, or something that does not belong here.
  private func message(
    _ header: FrameHeader, _ payload: [UInt8]
  ) throws(HandshakeError) -> ControlMessage {
    guard header.type.isControlMessage else { throw try refusedOrMisplaced(header, payload) }
    do throws(WireError) {
      return try ControlMessage(decoding: payload.rawBytes, of: header.type)
    } catch { throw .wire(error) }
  }
}
