internal import FoundationEssentials
public import Pages
public import System

/// Why an exchange of JSON lines failed.
public enum JSONLineError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A system call failed: nobody listens, no permission, connection reset.
  case connection(SystemError)
  /// The peer did not connect, take or answer in time.
  case timedOut(path: String)
  /// The peer closed, with that many bytes of an unfinished line sent.
  case closed(path: String, unfinishedByteCount: Int)
  /// The peer's line is longer than we allow.
  case lineTooLong(path: String, maximumByteCount: Int)
  /// The line is not the JSON that was expected; the start of it is shown.
  case notUnderstood(path: String, excerpt: String)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .connection(let error): "\(error)"
    case .timedOut(let path): "no answer from \(path) in time"
    case .closed(let path, 0): "\(path) closed the connection"
    case .closed(let path, let count):
      "\(path) closed the connection after \(count) bytes of an unfinished line"
    case .lineTooLong(let path, let maximum):
      "\(path) sent a line of more than \(maximum) bytes"
    case .notUnderstood(let path, let excerpt): "\(path) sent something else than asked: \(excerpt)"
    }
  }
}

/// The client's end of a control socket that speaks one JSON object a line. Used by one thread at a
/// time. After an error the two ends may be out of step: make a new client.
public final class JSONLineClient {
  /// A line may carry a VM's device state in base64: 64 MiB, as microvm allows.
  public static let maximumLineByteCount = 64 << 20
  /// How much of a line that we do not understand is shown.
  static let excerptByteCount = 80
  private static let pieceByteCount = 65_536

  private let stream: LocalStream
  private let maximumLineByteCount: Int
  /// Received and not yet given out; no line end before `scannedByteCount`.
  private var received: [UInt8] = []
  private var scannedByteCount = 0
  private var piece = [UInt8](repeating: 0, count: pieceByteCount)

  /// Talks over a stream that is connected.
  public init(
    stream: consuming LocalStream, maximumLineByteCount: Int = maximumLineByteCount
  ) {
    self.stream = stream
    self.maximumLineByteCount = maximumLineByteCount
  }

  /// Connects to the control socket at `path`.
  public static func connect(
    _ path: String, deadline: Instant
  ) throws(JSONLineError) -> JSONLineClient {
    do throws(SystemError) {
      return JSONLineClient(stream: try LocalStream.connect(path, deadline: deadline))
    } catch {
      throw Self.error(error, path: path)
    }
  }

  /// Does once what the first line in each direction takes longer for: the coders, and what Swift
  /// looks up for the types that they meet, are made ready with the first use, for milliseconds.
  public static func rehearse<Outgoing: Encodable, Incoming: Decodable>(
    sending object: Outgoing, receiving: Incoming.Type, like line: String
  ) {
    _ = encoded(object)
    let understood = decoded(receiving, from: Array(line.utf8))
    invariant(understood != nil, "the line that is rehearsed is one of its kind")
  }

  /// Sends one object and waits for one.
  public func call<Request: Encodable, Reply: Decodable>(
    _ request: Request, replyingWith: Reply.Type, deadline: Instant
  ) throws(JSONLineError) -> Reply {
    try send(request, deadline: deadline)
    return try receive(Reply.self, deadline: deadline)
  }

  /// Sends one object as one line.
  public func send<Request: Encodable>(
    _ request: Request, deadline: Instant
  ) throws(JSONLineError) {
    do throws(SystemError) {
      try stream.send(Self.encoded(request) + [0x0A], deadline: deadline)
    } catch {
      throw Self.error(error, path: stream.path)
    }
  }

  /// Waits for one line and reads it as an object.
  public func receive<Reply: Decodable>(
    _ type: Reply.Type, deadline: Instant
  ) throws(JSONLineError) -> Reply {
    let line = try receiveLine(deadline: deadline)
    guard let reply = Self.decoded(type, from: line) else {
      let start = line.prefix(Self.excerptByteCount)
      throw .notUnderstood(
        path: stream.path, excerpt: String(decoding: start, as: UTF8.self).debugDescription)
    }
    return reply
  }

  /// Waits for one line; it is returned without its end. What follows it is kept for the next call.
  public func receiveLine(deadline: Instant) throws(JSONLineError) -> [UInt8] {
    while true {
      if let end = received[scannedByteCount...].firstIndex(of: 0x0A) {
        let line = Array(received[..<end])
        received.removeFirst(end + 1)
        scannedByteCount = 0
        return line
      }
      scannedByteCount = received.count
      guard received.count <= maximumLineByteCount else {
        throw .lineTooLong(path: stream.path, maximumByteCount: maximumLineByteCount)
      }
      let count: Int
      do throws(SystemError) {
        count = try stream.receive(into: &piece, deadline: deadline)
      } catch {
        throw Self.error(error, path: stream.path)
      }
      guard count > 0 else {
        throw .closed(path: stream.path, unfinishedByteCount: received.count)
      }
      received.append(contentsOf: piece[..<count])
    }
  }

  private static func encoded(_ object: some Encodable) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let line = try? encoder.encode(object) else {
      // Requests are our own types of strings, numbers and bytes: they can all be encoded.
      invariantBroken("a request of ours can be written as JSON")
    }
    return Array(line)
  }

  private static func decoded<Object: Decodable>(
    _ type: Object.Type, from line: [UInt8]
  ) -> Object? {
    try? JSONDecoder().decode(type, from: Data(line))
  }

  private static func error(_ error: SystemError, path: String) -> JSONLineError {
    error.errno == .timedOut ? .timedOut(path: path) : .connection(error)
  }
}
