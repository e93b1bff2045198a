public import System
public import Wire

extension SessionID {
  /// The written form: 8-4-4-4-12 lower-case hexadecimal digits, as a UUID.
  public var text: String {
    let digits = Self.hexadecimal(high) + Self.hexadecimal(low)
    var parts: [Substring] = []
    var start = digits.startIndex
    for length in [8, 4, 4, 4, 12] {
      let end = digits.index(start, offsetBy: length)
      parts.append(digits[start..<end])
      start = end
    }
    return parts.joined(separator: "-")
  }

  /// Reads the written form; nil for anything else.
  public init?(text: String) {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    let digits = parts.joined()
    guard parts.map(\.utf8.count) == [8, 4, 4, 4, 12],
      digits.utf8.allSatisfy({ $0 != UInt8(ascii: "+") }),
      let high = UInt64(digits.prefix(16), radix: 16),
      let low = UInt64(digits.suffix(16), radix: 16)
    else { return nil }
    self.init(high: high, low: low)
  }

  /// A session that nobody can guess: 122 random bits, marked as a random UUID (RFC 9562, 4).
  public static func random() throws(SystemError) -> SessionID {
    var halves: [UInt64] = [0, 0]
    for (position, byte) in try RandomBytes.make(16).enumerated() {
      halves[position / 8] = halves[position / 8] << 8 | UInt64(byte)
    }
    return SessionID(
      high: halves[0] & ~0xF000 | 0x4000,
      low: halves[1] & ~(0b11 << 62) | 0b10 << 62)
  }

  private static func hexadecimal(_ half: UInt64) -> String {
    let digits = String(half, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
