internal import Codec
internal import Pages

/// The payload of a `seedRound` or `seedRoundApplied` frame: which round, counted from 1.
public enum SeedRound {
  /// The frame that ends a round on one bulk connection, ready to be sent.
  public static func endFrame(_ number: UInt64, session: UInt32) -> [UInt8] {
    frame(.seedRound, number, session)
  }

  /// The frame that answers it, ready to be sent.
  public static func appliedFrame(_ number: UInt64, session: UInt32) -> [UInt8] {
    frame(.seedRoundApplied, number, session)
  }

  private static func frame(_ type: FrameType, _ number: UInt64, _ session: UInt32) -> [UInt8] {
    var payload: [UInt8] = []
    payload.appendLittleEndian(number)
    var frame: [UInt8] = []
    FrameBuilder.append(type, session: session, payload: payload, to: &frame)
    return frame
  }

  /// The round's number in the payload of either frame.
  public static func number(in payload: RawSpan, of type: FrameType) throws(WireError) -> UInt64 {
    try payload.expectBounds(of: type)
    return payload.loadLittleEndian(at: 0)
  }
}
