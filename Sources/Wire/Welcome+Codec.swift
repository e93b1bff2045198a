internal import Codec
internal import Pages

// 0 session 16 bytes (high u64, low u64) · 16 epoch u64 · 24 mode u8 · 25 bulk connections u8
// 26 handed off u8 (0 or 1) · 27 reserved u8 · 28 region count u16
// 30 byte count of the processor features u16 · 32 the regions, then the features
extension Welcome {
  /// The whole frame, ready to be sent.
  public func encodedFrame() -> [UInt8] {
    invariant(
      (1...WireLimits.maximumBulkConnectionCount).contains(Int(bulkConnectionCount)),
      "a session has one bulk connection at least and keeps their bound")
    let features = WireText.fitting(
      processorFeatures, maximumByteCount: WireLimits.maximumProcessorFeaturesByteCount)
    var payload: [UInt8] = []
    payload.appendLittleEndian(session.high)
    payload.appendLittleEndian(session.low)
    payload.appendLittleEndian(epoch.rawValue)
    payload.appendLittleEndian(mode.rawValue)
    payload.appendLittleEndian(bulkConnectionCount)
    payload.appendLittleEndian(UInt8(isHandedOff ? 1 : 0))
    payload.appendLittleEndian(UInt8(0))
    payload.appendLittleEndian(UInt16(regions.count))
    payload.appendLittleEndian(UInt16(features.count))
    RegionList.append(regions, to: &payload)
    payload.append(contentsOf: features)
    var frame: [UInt8] = []
    FrameBuilder.append(.welcome, session: session.shortID, payload: payload, to: &frame)
    return frame
  }

  /// Reads a welcome frame's payload.
  public init(decoding payload: RawSpan) throws(WireError) {
    let type = FrameType.welcome
    try payload.expectBounds(of: type)
    let modeNumber: UInt8 = payload.loadLittleEndian(at: 24)
    guard let mode = MigrationMode(rawValue: modeNumber) else {
      throw .value(type, .mode, found: UInt64(modeNumber))
    }
    let bulkCount: UInt8 = payload.loadLittleEndian(at: 25)
    guard (1...WireLimits.maximumBulkConnectionCount).contains(Int(bulkCount)) else {
      throw .value(type, .bulkConnectionCount, found: UInt64(bulkCount))
    }
    let handedOff: UInt8 = payload.loadLittleEndian(at: 26)
    guard handedOff <= 1 else { throw .value(type, .isHandedOff, found: UInt64(handedOff)) }
    guard payload.loadLittleEndian(at: 27, as: UInt8.self) == 0 else {
      throw .notZero(type, .reserved)
    }
    let regionCount = Int(payload.loadLittleEndian(at: 28, as: UInt16.self))
    let featuresByteCount = Int(payload.loadLittleEndian(at: 30, as: UInt16.self))
    let featuresStart = payload.byteCount - featuresByteCount
    guard featuresByteCount <= WireLimits.maximumProcessorFeaturesByteCount,
      featuresStart >= WireLimits.welcomeFixedByteCount
    else { throw .value(type, .processorFeatures, found: UInt64(featuresByteCount)) }
    self.init(
      session: SessionID(
        high: payload.loadLittleEndian(at: 0), low: payload.loadLittleEndian(at: 8)),
      epoch: try payload.epoch(at: 16, of: type), mode: mode, bulkConnectionCount: bulkCount,
      isHandedOff: handedOff == 1,
      regions: try RegionList.decode(
        count: regionCount, from: payload.extracting(first: featuresStart),
        at: WireLimits.welcomeFixedByteCount, of: type),
      processorFeatures: try WireText.decode(
        payload.extracting(featuresStart..<payload.byteCount), of: type, .processorFeatures))
  }
}
