public import Pages
public import System

/// Why a session could not be asked.
public enum ControlSocketError: Error, Hashable, Sendable, CustomStringConvertible {
  /// A call failed. `isNobodyThere` tells whether it means that no session listens.
  case system(SystemError)
  /// The session closed the connection: it has ended, or there are too many clients.
  case closed(path: String)
  /// It did not answer in time.
  case timedOut(path: String)
  /// What it sent is no answer.
  case notUnderstood(path: String)
  /// It said no.
  case refused(String)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .system(let error): "\(error)"
    case .closed(let path): "the session at \(path) closed the connection"
    case .timedOut(let path): "the session at \(path) does not answer"
    case .notUnderstood(let path): "\(path) sent something else than an answer"
    case .refused(let reason): reason
    }
  }

  /// Whether no session listens there: no socket, or one that a killed process left behind.
  public var isNobodyThere: Bool {
    guard case .system(let error) = self else { return false }
    return error.errno == .noSuchEntry || error.errno == .connectionRefused
  }
}

/// A connection to a session's control socket, for one thread.
public final class ControlSocketClient {
  /// A session's control thread answers at once, whatever the session does.
  public static let answerNanoseconds: UInt64 = 5_000_000_000
  /// A stop is answered once the session has ended: above the time that ending a large VMM and
  /// waiting for a peer that is gone take together.
  public static let stopNanoseconds: UInt64 = 60_000_000_000

  /// Where the session listens.
  public let path: String
  private let stream: DescriptorStream
  private var lines = LineSplitter(maximumByteCount: SessionAnswer.maximumLineByteCount)
  private var piece = [UInt8](repeating: 0, count: 65_536)

  /// Connects to the session that listens at `path`.
  public init(path: String) throws(ControlSocketError) {
    self.path = path
    do throws(SystemError) {
      stream = try DescriptorStream.connect(
        path, deadline: MonotonicClock.now().advanced(byNanoseconds: Self.answerNanoseconds))
    } catch {
      throw .system(error)
    }
  }

  /// To wait on: readable when a line may have come.
  public var rawValue: Int32 { stream.rawValue }

  /// Asks, with duplicates of these descriptors, and waits for the answer. Not after `events`: what
  /// comes then are events.
  @discardableResult
  public func ask(
    _ verb: SessionVerb, descriptors: [Int32] = []
  ) throws(ControlSocketError) -> SessionAnswer {
    try send(SessionRequest(verb), descriptors: descriptors)
    return try answer(to: verb)
  }

  /// The first half of `ask`.
  public func send(
    _ request: SessionRequest, descriptors: [Int32] = []
  ) throws(ControlSocketError) {
    do throws(SystemError) {
      try stream.send(request.line, descriptors: descriptors)
    } catch {
      let isClosed = error.errno == .brokenPipe || error.errno == .connectionReset
      throw isClosed ? .closed(path: path) : .system(error)
    }
  }

  /// The second half of `ask`.
  public func answer(to verb: SessionVerb) throws(ControlSocketError) -> SessionAnswer {
    let limit = verb.isStop ? Self.stopNanoseconds : Self.answerNanoseconds
    let deadline = MonotonicClock.now().advanced(byNanoseconds: limit)
    guard let line = try nextLine(until: deadline) else { throw .timedOut(path: path) }
    guard let answer = SessionAnswer(line: line) else { throw .notUnderstood(path: path) }
    guard answer.ok else { throw .refused(answer.error ?? "the session said no") }
    return answer
  }

  /// The next line, without its end; nil when none is whole by then.
  public func nextLine(until deadline: Instant) throws(ControlSocketError) -> [UInt8]? {
    while true {
      if let line = lines.next() { return line }
      var descriptors = DescriptorList()
      let received: DescriptorStream.Received
      do throws(SystemError) {
        received = try stream.receive(
          into: &piece, descriptors: &descriptors, until: deadline)
      } catch {
        throw .system(error)
      }
      switch received {
      case .endOfStream: throw .closed(path: path)
      case .stopped, .timedOut: return nil
      case .bytes(let count):
        guard lines.append(piece[..<count]) else { throw .notUnderstood(path: path) }
      }
    }
  }

  /// The process at the other end. Its pidfd is opened before it is asked anything more: if it
  /// answers after that, the pidfd is its own.
  public func process() throws(ControlSocketError) -> ProcessHandle {
    do throws(SystemError) {
      return try ProcessHandle.open(pid: try stream.peerProcessID())
    } catch {
      throw .system(error)
    }
  }
}
