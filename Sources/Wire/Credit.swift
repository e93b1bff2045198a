internal import Codec
public import Pages

/// The payload of a `credit` frame: how many payload bytes the source may have sent on this bulk
/// connection in all, since it was opened.
///
/// Cumulative, so that a grant that is repeated or overtaken does no harm: the larger one counts.
/// Only the payloads of `pages` frames on this connection use credit up; device state and maps come
/// before the push and are bounded by themselves.
public enum Credit {
  /// The whole frame, ready to be sent.
  public static func encodedFrame(total: ByteCount, session: UInt32) -> [UInt8] {
    var payload: [UInt8] = []
    payload.appendLittleEndian(total.rawValue)
    var frame: [UInt8] = []
    FrameBuilder.append(.credit, session: session, payload: payload, to: &frame)
    return frame
  }

  /// The grant in a credit frame's payload.
  public static func total(in payload: RawSpan) throws(WireError) -> ByteCount {
    try payload.expectBounds(of: .credit)
    let total: UInt64 = payload.loadLittleEndian(at: 0)
    guard total <= WireLimits.maximumCreditByteCount else {
      throw .value(.credit, .credit, found: total)
    }
    return ByteCount(rawValue: total)
  }
}
