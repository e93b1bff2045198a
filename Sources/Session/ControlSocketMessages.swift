internal import FoundationEssentials
public import Migration
internal import Pages
internal import Wire

/// What can be asked of a running session over its control socket.
public enum SessionVerb: String, CaseIterable, Codable, Sendable {
  /// What it does now.
  case status
  /// Stop with everything kept: exit code 12.
  case park
  /// Give up: before the hand-over the VM runs on at the source; after it, refused once.
  case abort
  /// End the rounds and switch the VM over.
  case switchOver = "switch"
  /// Send so many bytes in a second at most, as `bytesPerSecond` says; all that goes where that is
  /// null. Pages that are packed count as packed.
  case limitBandwidth = "bandwidth"
  /// Be the keeper of this worker, whose own is gone. One end of a channel comes along.
  case adopt
  /// From now on, every event as a line, until the connection is closed.
  case events

  /// Whether the session's end is the answer.
  public var isStop: Bool { self == .park || self == .abort }
}

/// One line to a session: `{"verb":"status","version":1}`. Unknown keys are ignored.
public struct SessionRequest: Hashable, Sendable {
  /// The protocol's version; others are refused by name.
  public static let currentVersion = 1
  /// Bounds a request's line. None that we know needs 64 bytes.
  public static let maximumLineByteCount = 4096
  /// What bandwidth can be limited to: from one small page a second to more than any network
  /// carries.
  public static let bandwidthLimits: ClosedRange<UInt64> = 4096...1_000_000_000_000

  /// What is asked.
  public var verb: SessionVerb
  /// For `bandwidth` alone, within `bandwidthLimits`; nil for no limit.
  public var bytesPerSecond: UInt64?

  /// Asks that.
  public init(_ verb: SessionVerb, bytesPerSecond: UInt64? = nil) {
    self.verb = verb
    self.bytesPerSecond = bytesPerSecond
  }

  /// The line as it is.
  private struct Line: Codable {
    /// The version of the protocol that the client speaks.
    var version: Int
    /// A `SessionVerb`, or what only a later version knows.
    var verb: String
    /// For `bandwidth`, where it must not be missing: a word that was mistyped would lift a limit.
    var bytesPerSecond: UInt64??

    enum CodingKeys: CodingKey { case version, verb, bytesPerSecond }

    init(_ request: SessionRequest) {
      version = SessionRequest.currentVersion
      verb = request.verb.rawValue
      bytesPerSecond =
        request.verb == .limitBandwidth ? .some(request.bytesPerSecond) : .none
    }

    init(from decoder: any Decoder) throws {
      let container = try decoder.container(keyedBy: CodingKeys.self)
      version = try container.decode(Int.self, forKey: .version)
      verb = try container.decode(String.self, forKey: .verb)
      bytesPerSecond =
        container.contains(.bytesPerSecond)
        ? .some(try container.decode(UInt64?.self, forKey: .bytesPerSecond)) : .none
    }

    func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(version, forKey: .version)
      try container.encode(verb, forKey: .verb)
      if let bytesPerSecond { try container.encode(bytesPerSecond, forKey: .bytesPerSecond) }
    }
  }

  /// Reads a line; the error is the sentence that the client is told.
  public static func parse(_ line: [UInt8]) -> Result<SessionRequest, SessionRequestError> {
    guard let request = try? JSONDecoder().decode(Line.self, from: Data(line)) else {
      return .failure(
        SessionRequestError(
          reason: "a request is one line such as {\"verb\":\"status\",\"version\":1}"))
    }
    guard request.version == currentVersion else {
      return .failure(
        SessionRequestError(
          reason: "version \(request.version) is not spoken here, but \(currentVersion)"))
    }
    guard let verb = SessionVerb(rawValue: request.verb) else {
      let known = SessionVerb.allCases.map(\.rawValue).joined(separator: ", ")
      return .failure(
        SessionRequestError(reason: "there is no verb \"\(request.verb)\", but \(known)"))
    }
    guard verb == .limitBandwidth else { return .success(SessionRequest(verb)) }
    guard let limit = request.bytesPerSecond, limit.map(bandwidthLimits.contains) ?? true else {
      return .failure(
        SessionRequestError(
          reason: "bandwidth comes with bytesPerSecond, \(bandwidthLimits.lowerBound) to "
            + "\(bandwidthLimits.upperBound), or null for no limit"))
    }
    return .success(SessionRequest(verb, bytesPerSecond: limit))
  }

  /// The line, with its end.
  public var line: [UInt8] {
    ControlLine.bytes(of: Line(self))
  }
}

/// Why a request cannot be answered with what it asks for.
public struct SessionRequestError: Error, Hashable, Sendable {
  /// One sentence for the client.
  public var reason: String
}

/// What a session does, for whoever asks.
public struct SessionStatus: Codable, Hashable, Sendable {
  /// The VM's name.
  public var vm: String
  /// "source" or "destination".
  public var side: String
  /// Where the core stands.
  public var state: String
  /// Whether the peer is connected.
  public var isLinked: Bool
  /// Pages of the image; 0 while it is not known.
  public var totalPageCount: UInt64
  /// Pages that need no more work.
  public var settledPageCount: UInt64
  /// Nanoseconds since this process took the session up.
  public var elapsedNanoseconds: UInt64
  /// Nanoseconds until the last page, as it goes now; nil while that cannot be told.
  public var nanosecondsLeft: UInt64?
  /// At the source: how many bytes are sent in a second at most, beside what the VM waits for; nil
  /// for no limit.
  public var bytesPerSecondLimit: UInt64?
  /// At the source, in modes with rounds: how they go; nil before the first has ended.
  public var round: RoundStatus?

  /// A session of which nothing but its VM and side is known.
  public init(vmName: VMName, side: JournalSide, state: String) {
    vm = vmName.text
    self.side = side.name
    self.state = state
    isLinked = false
    totalPageCount = 0
    settledPageCount = 0
    elapsedNanoseconds = 0
  }
}

/// One line from a session. Within a version, keys are only added.
public struct SessionAnswer: Codable, Hashable, Sendable {
  /// Bounds an answer's or an event's line; a report is the longest, with a few kilobytes.
  public static let maximumLineByteCount = 1 << 18

  /// The version of the protocol that the session speaks.
  public var version: Int
  /// Whether it was done, or for `switch` will be; for `park` and `abort`, whether the session has
  /// ended.
  public var ok: Bool
  /// Why not.
  public var error: String?
  /// The answer to `status`.
  public var status: SessionStatus?
  /// The answer to `park` and `abort`: how the session has ended, which need not be what was asked
  /// for. One of "completed", "refused", "aborted", "parked".
  public var outcome: String?
  /// Why it ended so.
  public var reason: String?

  /// Done.
  public static func done(_ status: SessionStatus? = nil) -> SessionAnswer {
    SessionAnswer(
      version: SessionRequest.currentVersion, ok: true, error: nil, status: status)
  }

  /// The session has ended.
  public static func ended(_ outcome: Outcome) -> SessionAnswer {
    var answer = done()
    answer.outcome = "\(outcome.ending)"
    answer.reason = outcome.reason?.reason
    return answer
  }

  /// Not done, for that reason.
  public static func failed(_ reason: String) -> SessionAnswer {
    SessionAnswer(version: SessionRequest.currentVersion, ok: false, error: reason, status: nil)
  }

  /// Reads a line; nil when it is no answer.
  public init?(line: [UInt8]) {
    guard let answer = try? JSONDecoder().decode(SessionAnswer.self, from: Data(line)) else {
      return nil
    }
    self = answer
  }

  private init(version: Int, ok: Bool, error: String?, status: SessionStatus?) {
    self.version = version
    self.ok = ok
    self.error = error
    self.status = status
  }

  /// The line, with its end.
  public var line: [UInt8] { ControlLine.bytes(of: self) }
}

/// Values of ours as one line of JSON.
enum ControlLine {
  static func bytes<Value: Encodable>(of value: Value) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let line = try? encoder.encode(value) else {
      // Our own types of strings, numbers and claims: they can all be encoded.
      invariantBroken("a line of the control socket can be written as JSON")
    }
    return Array(line) + [0x0A]
  }
}

/// Cuts a stream into lines. Bounded: a longer line is an error and the stream of no use.
package struct LineSplitter {
  let maximumByteCount: Int
  private var unread: [UInt8] = []
  /// Where the next line starts: lines are not moved up one by one.
  private var start = 0
  /// Bytes of the line that has not ended yet.
  private var lineByteCount = 0
  private var isBroken = false

  /// Ready for the front of a stream.
  package init(maximumByteCount: Int) { self.maximumByteCount = maximumByteCount }

  /// False from the first line on that is too long, wherever the pieces end. The lines before it
  /// are still there.
  package mutating func append(_ bytes: ArraySlice<UInt8>) -> Bool {
    guard !isBroken else { return false }
    unread.removeFirst(start)
    start = 0
    for (position, byte) in zip(bytes.indices, bytes) {
      lineByteCount = byte == 0x0A ? 0 : lineByteCount + 1
      guard lineByteCount <= maximumByteCount else {
        isBroken = true
        unread.append(contentsOf: bytes[..<position])
        return false
      }
    }
    unread.append(contentsOf: bytes)
    return true
  }

  /// The next whole line, without its end.
  package mutating func next() -> [UInt8]? {
    guard let end = unread[start...].firstIndex(of: 0x0A) else { return nil }
    defer { start = end + 1 }
    return Array(unread[start..<end])
  }
}
