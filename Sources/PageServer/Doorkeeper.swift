internal import Codec
internal import Pages
internal import Session
public import System
public import Uring
public import Wire

/// A client at the door: its hello is well formed; whether it may come in is the session's to say.
public struct Arrival: Sendable {
  /// What it said.
  public let hello: Hello
  /// Where to answer it.
  public let connection: Connection
}

/// Why somebody at the door was sent away.
public enum StrangerError: Error, Hashable, Sendable, CustomStringConvertible {
  /// TLS with him did not come about.
  case security(ConnectionError)
  /// His first frame is none of ours.
  case wire(WireError)

  /// One sentence for an operator.
  public var description: String {
    switch self {
    case .security(let error): error.description
    case .wire(let error): error.description
    }
  }
}

/// Accepts connections, shakes hands with them where there is TLS, and reads their hellos, on a
/// thread of its own, so that a stranger who says nothing, or rubbish, or comes a thousand times,
/// delays nobody.
public final class Doorkeeper: Sendable {
  /// Connections that may be waiting for their hello at once. One migration has at most seventeen;
  /// beyond this the oldest stranger goes.
  static let maximumPendingCount = 32
  /// How long a refusal may take to be taken off our hands; a fresh socket has room for it.
  static let refusalNanoseconds: UInt64 = 100_000_000

  /// How long the door stays shut after an accept that failed.
  static let restNanoseconds: UInt64 = 100_000_000

  private struct Pending {
    let connection: Connection
    var isSecured = false
    var frame = SingleFrame(from: .destination)
    var deadline: Instant
  }

  private let listener: Listener
  private let stopping: WakeEvent
  private let thread: Lock<WorkerThread?>

  /// Starts to accept. `arrived` and `strangers` are called on the doorkeeper's thread: they must
  /// not block. A stranger is told why it is refused, and closed.
  public init(
    _ listener: Listener, arrived: @escaping @Sendable (Arrival) -> Void,
    stranger: @escaping @Sendable (_ peer: String, StrangerError) -> Void
  ) throws(SystemError) {
    let stopping = try WakeEvent()
    self.listener = listener
    self.stopping = stopping
    thread = Lock(
      try WorkerThread(name: "doorkeeper") {
        var room = WaitingRoom(
          listener: listener, stopping: stopping, arrived: arrived, stranger: stranger)
        room.run()
      })
  }

  /// Ends the thread and closes whoever has not said hello. The listener stays open.
  public func stop() {
    let taken: WorkerThread? = thread.withLock { $0.take() }
    guard let taken else { return }
    stopping.signal()
    taken.join()
  }

  /// Tells a client why it may not come in, and closes.
  public static func refuse(_ connection: Connection, _ refusal: Refusal) {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: refusalNanoseconds)
    // A client that does not even take its refusal has no need to know.
    try? connection.send(refusal.encodedFrame(session: 0).rawBytes, until: deadline)
    connection.shutdown()
  }

  /// Closes on a client with whom TLS did not come about. One that speaks our protocol in the clear
  /// is told so in the clear; all others know from TLS itself.
  private static func refuseUnsecured(_ connection: Connection, _ error: ConnectionError) {
    if error.kind == .tls(.peerSpeaksNoTLS) {
      let refusal = Refusal(
        .unfit,
        "the source speaks TLS; start the destination with --tls DIR, or both sides with --insecure"
      )
      connection.sendInClear(refusal.encodedFrame(session: 0).rawBytes)
    }
    connection.shutdown()
  }

  /// The thread's own state.
  private struct WaitingRoom {
    let listener: Listener
    let stopping: WakeEvent
    let arrived: @Sendable (Arrival) -> Void
    let stranger: @Sendable (String, StrangerError) -> Void
    var pending: [Pending] = []
    /// No accept before that: the last one failed for want of descriptors or memory.
    var reopens: Instant?

    mutating func run() {
      while true {
        // poll(2) passes over negative numbers.
        let descriptors =
          [stopping.rawValue, reopens == nil ? listener.rawDescriptor : -1]
          + pending.map(\.connection.rawDescriptor)
        let deadlines = pending.map(\.deadline) + (reopens.map { [$0] } ?? [])
        guard let ready = try? Readiness.wait(for: descriptors, until: deadlines.min())
        else { return }
        if ready[0] { return }
        for index in pending.indices.reversed() where ready[index + 2] { advance(index) }
        let now = MonotonicClock.now()
        pending.removeAll { $0.deadline <= now }
        if let reopening = reopens, reopening <= now { reopens = nil }
        if ready[1] { accept(now) }
      }
    }

    private mutating func accept(_ now: Instant) {
      let connection: Connection
      do throws(ConnectionError) {
        connection = try listener.accept(until: now)
      } catch {
        // A client that left again is no trouble. Anything else (descriptors ran out) would make
        // the listener readable at once again: it rests.
        if error.kind != .timedOut {
          reopens = now.advanced(byNanoseconds: Doorkeeper.restNanoseconds)
        }
        return
      }
      if pending.count == Doorkeeper.maximumPendingCount { pending.removeFirst() }
      pending.append(
        Pending(
          connection: connection,
          deadline: now.advanced(byNanoseconds: Handshake.limitNanoseconds)))
    }

    private mutating func advance(_ index: Int) {
      do throws(StrangerError) {
        guard try isSecured(index), let hello = try read(index) else { return }
        let connection = pending.remove(at: index).connection
        arrived(Arrival(hello: hello, connection: connection))
      } catch {
        let connection = pending.remove(at: index).connection
        stranger(connection.peer.description, error)
        switch error {
        case .security(let failure): Doorkeeper.refuseUnsecured(connection, failure)
        case .wire(let violation): Doorkeeper.refuse(connection, violation.refusal)
        }
      }
    }

    /// Whether hands are shaken; at once without TLS. The hello may have come along with the end of
    /// the handshake, so it is to be read then, and not only when more comes.
    private mutating func isSecured(_ index: Int) throws(StrangerError) -> Bool {
      if pending[index].isSecured { return true }
      do throws(ConnectionError) {
        let isSecured = try pending[index].connection.advanceHandshake()
        pending[index].isSecured = isSecured
        return isSecured
      } catch {
        if case .tls = error.kind { throw .security(error) }
        // Connected and closed, as a port scan does.
        pending[index].deadline = Instant(nanoseconds: 0)
        return false
      }
    }

    /// The hello once it is whole; nil while it is not, or when the client is gone.
    private mutating func read(_ index: Int) throws(StrangerError) -> Hello? {
      while true {
        let count: Int
        do throws(WireError) {
          switch try pending[index].frame.next() {
          case .complete(_, let payload): return try Hello(decoding: payload.rawBytes)
          case .needsBytes(let needed): count = needed
          }
        } catch { throw .wire(error) }
        do throws(ConnectionError) {
          let hasMore = try pending[index].frame.receiveAvailable(
            from: pending[index].connection, atMost: count)
          if !hasMore { return nil }
        } catch {
          // Gone. The empty place goes with its deadline.
          pending[index].deadline = Instant(nanoseconds: 0)
          return nil
        }
      }
    }
  }
}
