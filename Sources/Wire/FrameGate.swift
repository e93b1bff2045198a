internal import Codec
public import Pages

/// What may come in on one connection: the one place that judges a frame before its payload is
/// read, let alone stored.
///
/// A connection has two gates, one after the other: `handshake`, which admits the first frame only,
/// then `session`. Pure, keeps no bytes: the owner of the connection keeps the buffer and asks.
public struct FrameGate: Sendable {
  private let sender: Peer
  /// nil during the handshake: only the first frame tells the role.
  private let role: ConnectionRole?
  private let session: UInt32
  private let layout: ImageLayout?

  private init(sender: Peer, role: ConnectionRole?, session: UInt32, layout: ImageLayout?) {
    self.sender = sender
    self.role = role
    self.session = session
    self.layout = layout
  }

  /// Admits the first frame that `sender` sends: a hello from the destination, a welcome or a
  /// refusal from the source.
  public static func handshake(from sender: Peer) -> FrameGate {
    FrameGate(sender: sender, role: nil, session: 0, layout: nil)
  }

  /// Admits what `sender` may send on a connection of that role after the handshake, all of it of
  /// that session and about pages of that image.
  public static func session(
    from sender: Peer, on role: ConnectionRole, session: SessionID, layout: ImageLayout
  ) -> FrameGate {
    FrameGate(sender: sender, role: role, session: session.shortID, layout: layout)
  }

  /// Decodes and judges the header in the first 32 bytes of `bytes`, which must be there: well
  /// formed, allowed here, of this session, about pages that exist, with a payload of the right
  /// size. Allocates nothing.
  public func admit(_ bytes: RawSpan) throws(WireError) -> FrameHeader {
    guard let role, let layout else { return try admitFirst(bytes) }
    let header = try FrameHeader(decoding: bytes)
    guard header.type.isAllowed(from: sender, on: role), !header.type.isHandshake else {
      throw .misplaced(header.type, from: sender, on: role)
    }
    guard role == .bulk || !header.flags.contains(.packed) else {
      throw .flags(header.type, FrameFlags.packed.rawValue)
    }
    guard header.session == session else {
      throw .foreignSession(found: header.session, expected: session)
    }
    try header.validate(against: layout)
    return header
  }

  private func admitFirst(_ bytes: RawSpan) throws(WireError) -> FrameHeader {
    try checkFirstByte(bytes)
    do throws(WireError) {
      return try FrameHeader(decoding: bytes)
    } catch .headerChecksum {
      throw .notOurProtocol(firstBytes: firstBytes(of: bytes))
    }
  }

  /// Tells a stranger by the first byte, before it has sent as much as a header.
  private func checkFirstByte(_ bytes: RawSpan) throws(WireError) {
    let type = FrameType(rawValue: bytes.loadLittleEndian(at: 0))
    let isExpected =
      switch sender {
      case .destination: type == .hello
      case .source: type == .welcome || type == .refuse
      }
    guard isExpected else { throw .notOurProtocol(firstBytes: firstBytes(of: bytes)) }
  }

  /// What to do with the bytes received so far, of which the first is a frame's first.
  public enum Step: Hashable, Sendable {
    /// Receive until there are this many bytes in all; then ask again. For a payload that is not to
    /// lie behind its header (pages), `admit` alone is the better call.
    case needsBytes(Int)
    /// A whole frame: 32 bytes of header, then its payload, whose checksum is right.
    case frame(FrameHeader)
  }

  /// Judges as early as the bytes allow: a stranger after the first byte, a frame after its header,
  /// its payload once all of it is here.
  public func next(in received: RawSpan) throws(WireError) -> Step {
    if role == nil, received.byteCount > 0 { try checkFirstByte(received) }
    guard received.byteCount >= WireLimits.headerByteCount else {
      return .needsBytes(WireLimits.headerByteCount)
    }
    let header = try admit(received)
    guard received.byteCount >= header.frameByteCount else {
      return .needsBytes(header.frameByteCount)
    }
    try header.verify(
      payload: received.extracting(WireLimits.headerByteCount..<header.frameByteCount))
    return .frame(header)
  }
}

extension FrameHeader {
  /// Bytes of the header and the payload together.
  @inlinable
  public var frameByteCount: Int { WireLimits.headerByteCount + payloadByteCount }
}

extension FrameType {
  /// Whether it opens a connection and stands nowhere else.
  @inlinable
  var isHandshake: Bool { self == .hello || self == .welcome }
}
