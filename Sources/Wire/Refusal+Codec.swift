internal import Codec
internal import Pages

// 0 code u16 · 2 reason byte count u16 · 4 reason. In a refuse frame alone, in abort, aborted and
// parked behind the epoch. The layout of the refuse frame is the same in all versions.
extension Refusal {
  /// The whole refuse frame, ready to be sent; `session` is 0 before there is one.
  ///
  /// What of the reason does not fit in `WireLimits.maximumReasonByteCount` is cut off, what cannot
  /// be printed is sent as spaces.
  public func encodedFrame(session: UInt32) -> [UInt8] {
    var payload: [UInt8] = []
    append(to: &payload)
    var frame: [UInt8] = []
    FrameBuilder.append(.refuse, session: session, payload: payload, to: &frame)
    return frame
  }

  /// Reads a refuse frame's payload.
  public init(decoding payload: RawSpan) throws(WireError) {
    try payload.expectBounds(of: .refuse)
    try self.init(decoding: payload, at: 0, of: .refuse)
  }

  func append(to payload: inout [UInt8]) {
    let text = WireText.fitting(reason, maximumByteCount: WireLimits.maximumReasonByteCount)
    payload.appendLittleEndian(code.rawValue)
    payload.appendLittleEndian(UInt16(text.count))
    payload.append(contentsOf: text)
  }

  /// The refusal that fills the payload from `offset` on; its four fixed bytes must be there.
  init(decoding payload: RawSpan, at offset: Int, of type: FrameType) throws(WireError) {
    let number: UInt16 = payload.loadLittleEndian(at: offset)
    guard let code = RefusalCode(rawValue: number) else {
      throw .value(type, .code, found: UInt64(number))
    }
    let byteCount = Int(payload.loadLittleEndian(at: offset + 2, as: UInt16.self))
    let start = offset + 4
    guard byteCount <= WireLimits.maximumReasonByteCount else {
      throw .value(type, .reason, found: UInt64(byteCount))
    }
    try payload.expectByteCount(start + byteCount, of: type)
    let text = payload.extracting(start..<start + byteCount)
    self.init(code, try WireText.decode(text, of: type, .reason))
  }
}
