/// Takes choices and pieces from the front of an input. Behind its end everything is zero, so that
/// each input means something.
struct InputReader {
  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var isAtEnd: Bool { position >= bytes.count }

  mutating func byte() -> UInt8 {
    guard !isAtEnd else { return 0 }
    defer { position += 1 }
    return bytes[position]
  }

  mutating func word() -> Int { Int(byte()) | Int(byte()) << 8 }

  /// At most `count` bytes.
  mutating func bytes(_ count: Int) -> [UInt8] {
    let end = min(bytes.count, position + count)
    defer { position = end }
    return Array(bytes[min(position, end)..<end])
  }

  mutating func rest() -> [UInt8] { bytes(bytes.count) }
}
