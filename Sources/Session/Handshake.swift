internal import Codec
internal import Pages
internal import System
public import Uring
public import Wire

/// Why a connection did not get into a session.
public enum HandshakeError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The connection broke, or the peer was silent too long.
  case connection(ConnectionError)
  /// The peer's first frame is none of ours.
  case wire(WireError)
  /// The peer said no, and why.
  case refused(Refusal)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .connection(let error): error.description
    case .wire(let error): error.description
    case .refused(let refusal): refusal.reason
    }
  }

  /// The reason as the cores take it.
  public var refusal: Refusal {
    switch self {
    case .connection(let error): Refusal(.timeout, error.description)
    case .wire(let error): error.refusal
    case .refused(let refusal): refusal
    }
  }
}

/// The bytes of one frame while they come in, of a connection's first one for instance. Never holds
/// more than that frame may have, and nothing behind it: what follows stays in the socket.
public struct SingleFrame: Sendable {
  private var bytes: [UInt8] = []
  private let gate: FrameGate

  /// Waits for the first frame that `sender` sends.
  public init(from sender: Peer) {
    gate = .handshake(from: sender)
  }

  /// Waits for a frame that `gate` admits.
  init(_ gate: FrameGate) { self.gate = gate }

  /// What has to come before `next` can say more.
  public enum Step: Sendable {
    /// At most that many bytes.
    case needsBytes(Int)
    /// The frame is whole; its payload follows the header.
    case complete(FrameHeader, payload: [UInt8])
  }

  /// Judges what is there.
  public func next() throws(WireError) -> Step {
    switch try gate.next(in: bytes.rawBytes) {
    case .needsBytes(let count): .needsBytes(count - bytes.count)
    case .frame(let header):
      .complete(header, payload: Array(bytes[WireLimits.headerByteCount..<header.frameByteCount]))
    }
  }

  /// Takes in what has come on `connection` already; false when nothing has.
  public mutating func receiveAvailable(
    from connection: Connection, atMost count: Int
  ) throws(ConnectionError) -> Bool {
    guard let received = try connection.receiveAvailable(atMost: count) else { return false }
    bytes.append(contentsOf: received)
    return true
  }
}

/// The dialling side of the handshake.
public enum Handshake {
  /// How long either side waits for the other's first frame. A true peer answers at once; a
  /// stranger must not hold a place for long.
  public static let limitNanoseconds: UInt64 = 5_000_000_000

  /// Says hello on a fresh connection and waits for the welcome.
  public static func introduce(
    _ hello: Hello, on connection: Connection, limitNanoseconds: UInt64 = limitNanoseconds
  ) throws(HandshakeError) -> Welcome {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: limitNanoseconds)
    do throws(ConnectionError) {
      try connection.send(hello.encodedFrame().rawBytes, until: deadline)
    } catch {
      // A source that refuses closes early: its reason may be waiting to be read.
      if error.kind != .reset { throw .connection(error) }
    }
    let (header, payload) = try receive(
      SingleFrame(from: .source), on: connection, until: deadline)
    let refusal: Refusal
    do throws(WireError) {
      guard header.type == .refuse else { return try Welcome(decoding: payload.rawBytes) }
      refusal = try Refusal(decoding: payload.rawBytes)
    } catch { throw .wire(error) }
    throw .refused(refusal)
  }

  /// Waits for one whole frame. `cancel`: gives up when it is signalled.
  static func receive(
    _ frame: SingleFrame, on connection: Connection, until deadline: Instant,
    or cancel: WakeEvent? = nil
  ) throws(HandshakeError) -> (FrameHeader, [UInt8]) {
    var frame = frame
    while true {
      let step: SingleFrame.Step
      do throws(WireError) { step = try frame.next() } catch { throw .wire(error) }
      switch step {
      case .complete(let header, let payload): return (header, payload)
      case .needsBytes(let count):
        do throws(ConnectionError) {
          switch try connection.waitReadable(or: cancel, until: deadline) {
          case .readable: break
          case .event:
            throw ConnectionError(.cancelled, "handshake", peer: connection.peer.description)
          case .deadline:
            throw ConnectionError(.timedOut, "handshake", peer: connection.peer.description)
          }
          _ = try frame.receiveAvailable(from: connection, atMost: count)
        } catch { throw .connection(error) }
      }
    }
  }
}
