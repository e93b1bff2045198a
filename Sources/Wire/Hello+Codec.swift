internal import Codec
internal import Pages

/// What every hello starts with. It never changes, nor do the header's layout, the version behind
/// it, and the refuse frame: so peers of any two versions can tell each other why they part.
enum HelloMagic {
  /// As bytes "PSTCOPY" and f7, which stands in no text: neither HTTP nor TLS nor SSH begins so.
  static let word: UInt64 = 0xf7_59_50_4f_43_54_53_50
}

// 0 magic 8 bytes · 8 version u16 · 10 role u8 · 11 progress u8 · 12 region count u16
// 14 name byte count u16 · 16 session 16 bytes (high u64, low u64) · 32 epoch u64
// 40 token 32 bytes · 72 name · then the regions
extension Hello {
  /// Whether a VM may have this name: 1 to 255 bytes of UTF-8 that can be printed.
  public static func isNameValid(_ name: String) -> Bool {
    (1...WireLimits.maximumNameByteCount).contains(name.utf8.count)
      && name.unicodeScalars.allSatisfy(WireText.isPrintable)
  }

  /// The whole frame, ready to be sent. The name must be valid.
  public func encodedFrame() -> [UInt8] {
    invariant(Self.isNameValid(vmName), "a VM's name is checked when it is given")
    var payload: [UInt8] = []
    payload.appendLittleEndian(HelloMagic.word)
    payload.appendLittleEndian(version)
    payload.appendLittleEndian(role.rawValue)
    payload.appendLittleEndian(progress.rawValue)
    payload.appendLittleEndian(UInt16(regions.count))
    payload.appendLittleEndian(UInt16(vmName.utf8.count))
    payload.appendLittleEndian(session.high)
    payload.appendLittleEndian(session.low)
    payload.appendLittleEndian(epoch.rawValue)
    payload.append(contentsOf: token.bytes)
    payload.append(contentsOf: vmName.utf8)
    RegionList.append(regions, to: &payload)
    var frame: [UInt8] = []
    FrameBuilder.append(.hello, session: session.shortID, payload: payload, to: &frame)
    return frame
  }

  /// Reads a hello frame's payload. Magic and version are judged before anything else, so that
  /// another version's hello gives `WireError.version` whatever stands behind it.
  ///
  /// What the regions describe is for `ImageLayout` to judge, who is meant for the session.
  public init(decoding payload: RawSpan) throws(WireError) {
    let type = FrameType.hello
    try payload.expectBounds(of: type)
    guard payload.loadLittleEndian(at: 0, as: UInt64.self) == HelloMagic.word else {
      throw .notOurProtocol(firstBytes: firstBytes(of: payload))
    }
    let version: UInt16 = payload.loadLittleEndian(at: 8)
    guard version == WireLimits.version else { throw .version(found: version) }
    guard payload.byteCount >= WireLimits.helloFixedByteCount else {
      throw .payloadMismatch(
        type, found: payload.byteCount, expected: WireLimits.helloFixedByteCount)
    }
    let roleNumber: UInt8 = payload.loadLittleEndian(at: 10)
    guard let role = ConnectionRole(rawValue: roleNumber) else {
      throw .value(type, .role, found: UInt64(roleNumber))
    }
    let progressNumber: UInt8 = payload.loadLittleEndian(at: 11)
    guard let progress = DestinationProgress(rawValue: progressNumber) else {
      throw .value(type, .progress, found: UInt64(progressNumber))
    }
    let regionCount = Int(payload.loadLittleEndian(at: 12, as: UInt16.self))
    guard role == .urgent ? regionCount > 0 : regionCount == 0 else {
      throw .value(type, .regionCount, found: UInt64(regionCount))
    }
    let nameByteCount = Int(payload.loadLittleEndian(at: 14, as: UInt16.self))
    guard (1...WireLimits.maximumNameByteCount).contains(nameByteCount) else {
      throw .value(type, .name, found: UInt64(nameByteCount))
    }
    let nameStart = WireLimits.helloFixedByteCount
    let nameEnd = nameStart + nameByteCount
    let regions = try RegionList.decode(
      count: regionCount, from: payload, at: nameEnd, of: type)
    self.init(
      version: version, role: role,
      session: SessionID(
        high: payload.loadLittleEndian(at: 16), low: payload.loadLittleEndian(at: 24)),
      epoch: try payload.epoch(at: 32, of: type), progress: progress,
      token: Self.token(in: payload, at: 40),
      vmName: try WireText.decode(payload.extracting(nameStart..<nameEnd), of: type, .name),
      regions: regions)
  }

  private static func token(in payload: RawSpan, at offset: Int) -> SessionToken {
    var bytes: [UInt8] = []
    for index in 0..<SessionToken.byteCount {
      bytes.append(payload.loadLittleEndian(at: offset + index))
    }
    // Exactly 32 bytes, so never nil.
    return SessionToken(bytes: bytes)!
  }
}

/// Up to eight bytes for the report.
func firstBytes(of bytes: RawSpan) -> [UInt8] {
  (0..<min(8, bytes.byteCount)).map { bytes.loadLittleEndian(at: $0) }
}
