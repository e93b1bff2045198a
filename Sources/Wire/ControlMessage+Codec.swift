internal import Codec
internal import Pages

// Every control message but ping and pong begins with the epoch u64; ping and pong are a sequence
// number u64. Behind the epoch: frozen, page count u64 and 1 or 0 as u8; ran, nanoseconds u64 and
// four parts of the pause u64 each; abort, aborted and parked, a refusal.
extension FrameType {
  /// Whether `ControlMessage` can carry it: the business of the cores.
  public var isControlMessage: Bool {
    switch self {
    case .ready, .frozen, .discarded, .prepared, .go, .ran, .complete, .completeAcknowledged,
      .abort, .aborted, .ping, .pong, .parked:
      true
    case .hello, .welcome, .refuse, .request, .pages, .zeroPages, .poisonedPages, .zeroMap,
      .pushFinished, .credit, .deviceState, .residentMap, .filler,
      .seedPages, .seedZeros, .seedRound, .seedRoundApplied, .discardMap:
      false
    }
  }
}

extension ControlMessage {
  /// The type of the frame that carries it.
  public var frameType: FrameType {
    switch self {
    case .ready: .ready
    case .frozen: .frozen
    case .discarded: .discarded
    case .prepared: .prepared
    case .go: .go
    case .ran: .ran
    case .complete: .complete
    case .completeAcknowledged: .completeAcknowledged
    case .abort: .abort
    case .aborted: .aborted
    case .ping: .ping
    case .pong: .pong
    case .parked: .parked
    }
  }

  /// The whole frame, ready to be sent. A refusal's reason is cut and cleaned as in
  /// `Refusal.encodedFrame`.
  public func encodedFrame(session: UInt32) -> [UInt8] {
    var payload: [UInt8] = []
    switch self {
    case .ready(let epoch), .discarded(let epoch), .prepared(let epoch), .go(let epoch),
      .complete(let epoch), .completeAcknowledged(let epoch):
      payload.appendLittleEndian(epoch.rawValue)
    case .frozen(let epoch, let discardPageCount, let fillsBeforeRun):
      payload.appendLittleEndian(epoch.rawValue)
      payload.appendLittleEndian(discardPageCount.rawValue)
      payload.appendLittleEndian(UInt8(fillsBeforeRun ? 1 : 0))
    case .ran(let epoch, let nanosecondsSinceStart, let pause):
      payload.appendLittleEndian(epoch.rawValue)
      payload.appendLittleEndian(nanosecondsSinceStart)
      payload.appendLittleEndian(pause.transferNanoseconds)
      payload.appendLittleEndian(pause.loadNanoseconds)
      payload.appendLittleEndian(pause.acceptNanoseconds)
      payload.appendLittleEndian(pause.startNanoseconds)
      payload.appendLittleEndian(pause.fillNanoseconds)
    case .abort(let epoch, let refusal), .aborted(let epoch, let refusal),
      .parked(let epoch, let refusal):
      payload.appendLittleEndian(epoch.rawValue)
      refusal.append(to: &payload)
    case .ping(let sequence), .pong(let sequence):
      payload.appendLittleEndian(sequence)
    }
    var frame: [UInt8] = []
    FrameBuilder.append(frameType, session: session, payload: payload, to: &frame)
    return frame
  }

  /// Reads the payload of a frame whose type `isControlMessage`.
  public init(decoding payload: RawSpan, of type: FrameType) throws(WireError) {
    invariant(type.isControlMessage, "only control frames are decoded as control messages")
    try payload.expectBounds(of: type)
    switch type {
    case .ping:
      self = .ping(sequence: payload.loadLittleEndian(at: 0))
      return
    case .pong:
      self = .pong(sequence: payload.loadLittleEndian(at: 0))
      return
    default: break
    }
    let epoch = try payload.epoch(at: 0, of: type)
    switch type {
    case .ready: self = .ready(epoch: epoch)
    case .frozen:
      let pages: UInt64 = payload.loadLittleEndian(at: 8)
      guard pages <= WireLimits.maximumImagePageCount else {
        throw .value(type, .pageCount, found: pages)
      }
      let fills: UInt8 = payload.loadLittleEndian(at: 16)
      guard fills <= 1 else { throw .value(type, .fillsBeforeRun, found: UInt64(fills)) }
      self = .frozen(
        epoch: epoch, discardPageCount: PageCount(rawValue: pages), fillsBeforeRun: fills == 1)
    case .discarded: self = .discarded(epoch: epoch)
    case .prepared: self = .prepared(epoch: epoch)
    case .go: self = .go(epoch: epoch)
    case .ran:
      self = .ran(
        epoch: epoch, nanosecondsSinceStart: try payload.nanoseconds(at: 8, of: type),
        PauseParts(
          transferNanoseconds: try payload.nanoseconds(at: 16, of: type),
          loadNanoseconds: try payload.nanoseconds(at: 24, of: type),
          acceptNanoseconds: try payload.nanoseconds(at: 32, of: type),
          startNanoseconds: try payload.nanoseconds(at: 40, of: type),
          fillNanoseconds: try payload.nanoseconds(at: 48, of: type)))
    case .complete: self = .complete(epoch: epoch)
    case .completeAcknowledged: self = .completeAcknowledged(epoch: epoch)
    case .abort: self = .abort(epoch: epoch, try Refusal(decoding: payload, at: 8, of: type))
    case .aborted: self = .aborted(epoch: epoch, try Refusal(decoding: payload, at: 8, of: type))
    case .parked: self = .parked(epoch: epoch, try Refusal(decoding: payload, at: 8, of: type))
    case .ping, .pong, .hello, .welcome, .refuse, .request, .pages, .zeroPages, .poisonedPages,
      .zeroMap, .pushFinished, .credit, .deviceState, .residentMap, .filler,
      .seedPages, .seedZeros, .seedRound, .seedRoundApplied, .discardMap:
      invariantBroken("every control message has its decoder")
    }
  }
}

extension RawSpan {
  /// A length of time, within its bound.
  fileprivate func nanoseconds(
    at offset: Int, of type: FrameType
  ) throws(WireError) -> UInt64 {
    let found: UInt64 = loadLittleEndian(at: offset)
    guard found <= WireLimits.maximumNanoseconds else {
      throw .value(type, .nanoseconds, found: found)
    }
    return found
  }
}
