internal import Pages
internal import Session
internal import System
internal import Uring
internal import Wire

/// Finds the source and gets all connections of the session into it.
struct SourceDialler: Sendable {
  let configuration: DestinationConfiguration
  let regions: [Region]
  let session: SessionID
  let epoch: Epoch
  let progress: DestinationProgress
  let cancel: WakeEvent
  let inputs: Mailbox<DestinationSession.Input>

  /// Tries every address in turn, again and again while nobody answers there, until one takes us
  /// in, one refuses, the time is over, or the operator stops it.
  func run() -> DestinationSession.Input {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: configuration.connectNanoseconds)
    var hasToldWhy = false
    while true {
      var last: (Endpoint, ConnectionError)?
      for endpoint in configuration.sources {
        do throws(HandshakeError) {
          return .linked(try join(endpoint, deadline))
        } catch .connection(let error) {
          if error.kind == .cancelled { return .dialEnded(Self.stopped) }
          last = (endpoint, error)
        } catch {
          return .dialEnded(error.refusal)
        }
      }
      guard let (endpoint, error) = last, MonotonicClock.now() < deadline else {
        return .dialEnded(Refusal(.timeout, last.map { "\($0.1)" } ?? "no address to dial"))
      }
      if !hasToldWhy {
        hasToldWhy = true
        DestinationSession.tell(.dialFailed(endpoint, error), inputs)
      }
      if rest() { return .dialEnded(Self.stopped) }
    }
  }

  /// Above the round trip of any link over which a VM can be moved.
  private static let attemptNanoseconds: UInt64 = 2_000_000_000

  private static let stopped = Refusal(.operatorRequest, "stopped by the operator")

  /// True when the operator stopped it.
  private func rest() -> Bool {
    let end = MonotonicClock.now().advanced(byNanoseconds: DestinationSession.redialNanoseconds)
    // A wait that fails is no rest; the dialling itself then tells what is wrong.
    let ready = try? Readiness.wait(for: [cancel.rawValue], until: end)
    return ready?.first == true
  }

  private func join(_ endpoint: Endpoint, _ deadline: Instant) throws(HandshakeError) -> SourceLinks
  {
    let urgent = try dial(endpoint, .urgent, deadline)
    let welcome = try Handshake.introduce(hello(.urgent, session), on: urgent)
    var bulk: [Connection] = []
    for _ in 0..<welcome.bulkConnectionCount {
      let connection = try dial(endpoint, .bulk, deadline)
      _ = try Handshake.introduce(hello(.bulk, welcome.session), on: connection)
      bulk.append(connection)
    }
    return SourceLinks(source: endpoint, urgent: urgent, bulk: bulk, welcome: welcome)
  }

  private func dial(
    _ endpoint: Endpoint, _ purpose: Connection.Purpose, _ deadline: Instant
  ) throws(HandshakeError) -> Connection {
    // A lost SYN, or an address that swallows them, must not use up the others' time.
    let attempt = MonotonicClock.now().advanced(byNanoseconds: Self.attemptNanoseconds)
    do throws(ConnectionError) {
      return try Connection.dial(
        endpoint, purpose: purpose, until: min(deadline, attempt), cancel: cancel)
    } catch { throw .connection(error) }
  }

  private func hello(_ role: ConnectionRole, _ session: SessionID) -> Hello {
    Hello(
      role: role, session: session, epoch: epoch, progress: progress, token: configuration.token,
      vmName: configuration.vmName.text, regions: role == .urgent ? regions : [])
  }
}
