/// One event of a trace, by the names of the Trace Event Format, which Perfetto and Chrome read
/// ("Trace Event Format", Google, 2016; the JSON array form).
struct TraceEvent: Hashable, Encodable {
  /// What kind of event it is.
  enum Phase: String, Encodable {
    /// Something begins on a row; whatever begins later on it ends before.
    case begin = "B"
    case end = "E"
    /// Something with both its ends.
    case complete = "X"
    case mark = "i"
    case counter = "C"
    /// What a row or a process is called.
    case name = "M"
  }

  /// A fact beside an event.
  enum Fact: Hashable, Encodable {
    case text(String)
    case count(UInt64)

    func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      switch self {
      case .text(let text): try container.encode(text)
      case .count(let count): try container.encode(count)
      }
    }
  }

  var name: String?
  var ph: Phase
  /// Microseconds since 1970, as the wall clock told at the beginning.
  var ts: Double
  /// Microseconds, of a complete event.
  var dur: Double?
  var pid: Int32
  /// The row; counters belong to the process.
  var tid: Int
  /// Of a mark: "t", of its row alone.
  var s: String?
  var args: [String: Fact]?
}
