/// Which of the two hosts sends.
public enum Peer: UInt8, CaseIterable, Hashable, Sendable {
  /// `page-server`: it listens, and has the pages.
  case source = 0
  /// `postcopyd`: it dials, and needs them.
  case destination = 1
}

// What a frame of each type may look like, in one place: encoder, decoder, tests and
// `Documentation/protocol.md` follow these tables.
extension FrameType {
  /// Whether the header names a run of pages. In all other frames region, page index, page count
  /// and sequence are zero.
  @inlinable
  public var namesPages: Bool {
    switch self {
    case .request, .pages, .zeroPages, .poisonedPages, .seedPages, .seedZeros: true
    case .hello, .welcome, .refuse, .ready, .frozen, .discarded, .prepared, .go, .ran, .complete,
      .completeAcknowledged, .abort, .aborted, .ping, .pong, .parked, .zeroMap, .pushFinished,
      .credit, .deviceState, .residentMap, .seedRound, .seedRoundApplied, .discardMap, .filler:
      false
    }
  }

  /// The flags that a frame of this type may carry.
  @inlinable
  public var allowedFlags: FrameFlags {
    switch self {
    case .pages: [.demanded, .hasPayloadChecksum, .packed]
    case .zeroPages, .poisonedPages: [.demanded, .hasPayloadChecksum]
    case .seedPages: [.hasPayloadChecksum, .packed]
    case .deviceState, .residentMap, .discardMap, .filler: [.last, .hasPayloadChecksum]
    case .hello, .welcome, .refuse, .ready, .frozen, .discarded, .prepared, .go, .ran, .complete,
      .completeAcknowledged, .abort, .aborted, .ping, .pong, .parked, .request, .zeroMap,
      .pushFinished, .credit, .seedZeros, .seedRound, .seedRoundApplied:
      .hasPayloadChecksum
    }
  }

  /// The payload sizes that a frame of this type with these flags may announce, in bytes.
  @inlinable
  public func payloadByteCounts(_ flags: FrameFlags) -> ClosedRange<Int> {
    switch self {
    // At least one byte of what an encoding has made; less than the pages that it stands for.
    case .pages where flags.contains(.packed), .seedPages where flags.contains(.packed):
      WireLimits.packedPrefixByteCount + 1...WireLimits.maximumPagePayloadByteCount - 1
    // Another version's hello may be shorter than ours; it must come through to be refused.
    case .hello: WireLimits.helloPrefixByteCount...WireLimits.maximumControlPayloadByteCount
    case .welcome: WireLimits.welcomeFixedByteCount...WireLimits.maximumControlPayloadByteCount
    case .refuse: 4...4 + WireLimits.maximumReasonByteCount
    case .abort, .aborted, .parked: 12...12 + WireLimits.maximumReasonByteCount
    case .ready, .discarded, .prepared, .go, .complete, .completeAcknowledged, .ping, .pong,
      .credit, .seedRound, .seedRoundApplied:
      8...8
    case .frozen: 17...17
    case .ran: 56...56
    case .request, .zeroPages, .poisonedPages, .pushFinished, .seedZeros: 0...0
    case .pages, .seedPages:
      WireLimits.smallestPageByteCount...WireLimits.maximumPagePayloadByteCount
    case .zeroMap, .discardMap:
      WireLimits.zeroMapEntryByteCount...WireLimits.maximumZeroMapRunCount
        * WireLimits.zeroMapEntryByteCount
    case .deviceState: 0...WireLimits.maximumControlPayloadByteCount
    case .filler: 1...WireLimits.maximumControlPayloadByteCount
    case .residentMap:
      WireLimits.residentMapFixedByteCount + 1...WireLimits.maximumResidentMapPayloadByteCount
    }
  }

  /// Whether that peer may send a frame of this type on a connection of that role.
  public func isAllowed(from sender: Peer, on role: ConnectionRole) -> Bool {
    switch self {
    case .refuse: true
    case .hello: sender == .destination
    case .welcome: sender == .source
    case .frozen, .go, .completeAcknowledged, .abort: sender == .source && role == .urgent
    case .ready: role == .check || (sender == .destination && role == .urgent)
    case .discarded, .prepared, .ran, .complete, .aborted, .request:
      sender == .destination && role == .urgent
    case .ping, .pong: role != .bulk
    case .parked: role == .urgent
    case .pages, .zeroPages, .poisonedPages: sender == .source && role != .check
    case .filler: sender == .source && role == .check
    case .zeroMap, .pushFinished, .deviceState, .seedPages, .seedZeros, .seedRound, .discardMap:
      sender == .source && role == .bulk
    case .credit: sender == .destination && role != .urgent
    case .residentMap, .seedRoundApplied: sender == .destination && role == .bulk
    }
  }
}
