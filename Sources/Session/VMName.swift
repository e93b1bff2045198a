internal import Wire

/// A VM's name as operators write it, checked once: it stands in messages, on the wire, in journals
/// and, in another form, in file names.
public struct VMName: Hashable, Sendable, CustomStringConvertible {
  /// The name.
  public let text: String
  /// Below NAME_MAX (255) with room for an ending.
  private static let maximumFileNameByteCount = 200

  /// 1 to 255 bytes of UTF-8 that can be printed, as a hello carries them.
  public init(_ text: String) throws(StateError) {
    guard !text.isEmpty else { throw .badName("it is empty") }
    guard text.utf8.count <= WireLimits.maximumNameByteCount else {
      throw .badName(
        "it has \(text.utf8.count) bytes; at most "
          + "\(WireLimits.maximumNameByteCount) are allowed")
    }
    guard Hello.isNameValid(text) else {
      throw .badName("it has characters that cannot be printed")
    }
    self.text = text
  }

  /// The name for a directory. Letters, digits, "_", "-" and inner "." stand for themselves, every
  /// other byte is written %XX; what gets too long is cut and ends in a hash. No two names share
  /// one, but for a hash's chance, and the journal holds the whole name.
  public var fileName: String {
    var encoded = ""
    for (position, byte) in text.utf8.enumerated() {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
        encoded.unicodeScalars.append(Unicode.Scalar(byte))
      case UInt8(ascii: ".") where position > 0: encoded.append(".")
      default: encoded += "%" + Self.hexadecimal(UInt64(byte), digitCount: 2)
      }
    }
    guard encoded.utf8.count > Self.maximumFileNameByteCount else { return encoded }
    return encoded.prefix(Self.maximumFileNameByteCount - 17) + "~" + Self.hash(text)
  }

  /// 16 digits. FNV-1a: any hash that stays the same for ever will do.
  static func hash(_ text: String) -> String {
    let hash = text.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) {
      ($0 ^ UInt64($1)) &* 0x100_0000_01B3
    }
    return hexadecimal(hash, digitCount: 16)
  }

  /// The name.
  public var description: String { text }

  private static func hexadecimal(_ number: UInt64, digitCount: Int) -> String {
    let digits = String(number, radix: 16, uppercase: true)
    return String(repeating: "0", count: digitCount - digits.count) + digits
  }
}
