internal import FoundationEssentials
internal import Pages

/// Values of ours as one line of JSON.
enum JSONText {
  /// Keys in alphabetical order, so that equal values are equal lines.
  static func line<Value: Encodable>(of value: Value) -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let line = try? encoder.encode(value) else {
      // Reports are strings, whole numbers and lists of them: all of it can be written.
      invariantBroken("a report can be written as JSON")
    }
    return String(decoding: line, as: UTF8.self)
  }

  /// A value from its line; nil when it is none.
  static func value<Value: Decodable>(_ type: Value.Type, of line: String) -> Value? {
    try? JSONDecoder().decode(type, from: Data(line.utf8))
  }
}
