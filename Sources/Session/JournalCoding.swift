internal import Codec
internal import Pages

/// Something that fits into a journal record.
public protocol JournalEncodable: Sendable {
  /// Writes every field, in a fixed order.
  func encode(to writer: inout JournalWriter)
  /// Reads what `encode` wrote.
  init(from reader: inout JournalReader) throws(JournalFormatError)
}

/// Why a record's bytes do not say what they should.
public struct JournalFormatError: Error, Hashable, Sendable {
  /// What is wrong, for a message.
  public let reason: String

  /// That reason.
  public init(_ reason: String) { self.reason = reason }
}

/// Puts fields into a record, little-endian.
public struct JournalWriter: Sendable {
  /// What was written so far.
  public private(set) var bytes: [UInt8] = []

  /// An empty record.
  public init() {}

  /// A number at its full width.
  public mutating func append<Integer: FixedWidthInteger>(_ number: Integer) {
    bytes.appendLittleEndian(number)
  }

  /// Text of up to 255 bytes of UTF-8. What is longer is cut at a character's end: only reasons,
  /// which are for people, may be.
  public mutating func append(text: String) {
    var kept = Array(text.utf8)
    if kept.count > 255 {
      var end = 255
      while end > 0, kept[end] & 0xC0 == 0x80 { end -= 1 }
      kept.removeSubrange(end...)
    }
    bytes.append(UInt8(kept.count))
    bytes.append(contentsOf: kept)
  }
}

/// Takes fields out of a record.
public struct JournalReader: Sendable {
  private let bytes: [UInt8]
  private var position = 0

  /// Reads from the start of these bytes.
  public init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// A number at its full width.
  public mutating func next<Integer: FixedWidthInteger & BitwiseCopyable>(
    _ type: Integer.Type = Integer.self
  ) throws(JournalFormatError) -> Integer {
    let count = Integer.bitWidth / 8
    guard bytes.count - position >= count else { throw JournalFormatError("it is too short") }
    defer { position += count }
    return bytes.rawBytes.loadLittleEndian(at: position, as: type)
  }

  /// Text as `JournalWriter.append(text:)` wrote it.
  public mutating func nextText() throws(JournalFormatError) -> String {
    let count = Int(try next(UInt8.self))
    guard bytes.count - position >= count else { throw JournalFormatError("it is too short") }
    defer { position += count }
    guard let text = String(validating: bytes[position..<position + count], as: UTF8.self) else {
      throw JournalFormatError("its text is not UTF-8")
    }
    return text
  }

  /// Every byte must have been read: a longer record means more than we know.
  public func finish() throws(JournalFormatError) {
    guard position == bytes.count else { throw JournalFormatError("it is too long") }
  }
}
