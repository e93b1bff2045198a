internal import Codec

/// Texts on the wire: bounded UTF-8 that is safe to print in a terminal and a log.
enum WireText {
  /// Whether a text with this scalar may be printed as it is: no control characters, no line or
  /// paragraph separators, nothing that turns the direction of what follows.
  static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7f..<0xa0, 0x2028...0x202e, 0x2066...0x2069: false
    default: true
    }
  }

  /// The text of exactly these bytes, all of the span.
  static func decode(
    _ bytes: RawSpan, of type: FrameType, _ field: WireField
  ) throws(WireError) -> String {
    var units: [UInt8] = []
    units.reserveCapacity(bytes.byteCount)
    for offset in 0..<bytes.byteCount { units.append(bytes.loadLittleEndian(at: offset)) }
    guard let text = String(validating: units, as: UTF8.self),
      text.unicodeScalars.allSatisfy(isPrintable)
    else { throw .text(type, field) }
    return text
  }

  /// As much of the text as fits, whole characters only, what cannot be printed as spaces.
  static func fitting(_ text: String, maximumByteCount: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    for scalar in text.unicodeScalars {
      let units = UTF8.encode(isPrintable(scalar) ? scalar : " ")!
      guard bytes.count + units.count <= maximumByteCount else { break }
      bytes.append(contentsOf: units)
    }
    return bytes
  }
}
