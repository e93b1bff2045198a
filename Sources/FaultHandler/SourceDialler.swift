internal import Migration
internal import Pages
internal import Session
internal import System
internal import Uring
internal import Wire

/// How the source is looked for.
enum DialPlan: Sendable {
  /// The first time: all connections at once, until somebody refuses (see `BusyPatience`) or
  /// `connectNanoseconds` are over.
  case first
  /// Only to say what our journal proves: nothing is left here that a link would be for.
  case tell
  /// After a loss: urgent first, for somebody waits for a page; for ever, whoever refuses. The link
  /// was lost then, and took so long for a round trip. `rests`: it did not last, so the next one is
  /// not tried at once. `useless`: its bulk connections could not be made, so the other addresses
  /// come first.
  case again(
    lost: Instant, roundTripNanoseconds: UInt64?, rests: Bool, useless: Endpoint? = nil)
}

/// How long a source that is *busy* is asked again by a destination that knows no session yet: the
/// client that it has may be ourselves, welcomed on a connection on which we never heard of it. It
/// notices when the first word does not come that nobody is there. Only a source that found our
/// token to be the session's says *busy*. Pure.
struct BusyPatience {
  /// Above the rest between two attempts and the way of the verdict through the source's threads.
  private static let slackNanoseconds: UInt64 = 500_000_000

  private let limitNanoseconds: UInt64
  private var lastLost: Instant?

  /// Both sides have the same budget.
  init(heartbeatBudgetNanoseconds: UInt64) {
    limitNanoseconds =
      max(heartbeatBudgetNanoseconds, LinkMonitor.setupNanoseconds) + Self.slackNanoseconds
  }

  /// A connection on which we had said hello came to nothing: from now on it is silent.
  mutating func helloLost(at now: Instant) { lastLost = now }

  /// Whether a link of ours may be what the source is busy with.
  func covers(_ now: Instant) -> Bool {
    guard let lastLost else { return false }
    return now.nanoseconds(since: lastLost) < limitNanoseconds
  }
}

/// Finds the source and gets all connections of the session into it.
struct SourceDialler: Sendable {
  let configuration: DestinationConfiguration
  let plan: DialPlan
  /// Tells its words from those of an earlier one.
  let number: UInt32
  let regions: [Region]
  let session: SessionID
  let epoch: Epoch
  let progress: DestinationProgress
  let cancel: WakeEvent
  let inputs: Mailbox<DestinationSession.Input>

  func run() -> DestinationSession.DialResult {
    switch plan {
    case .first: dialFirst()
    case .tell: dialToTell()
    case .again(let lost, let roundTrip, let rests, let useless):
      rests && rest(nanoseconds: Self.restNanoseconds)
        ? .ended(Self.stopped) : dialAgain(lost, roundTrip, useless)
    }
  }

  // MARK: The first time

  /// Tries every address in turn, again and again while nobody answers there, until one takes us
  /// in, one refuses, the time is over, or the operator stops it. One that is busy with a link of
  /// ours is asked again for a while.
  private func dialFirst() -> DestinationSession.DialResult {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: configuration.connectNanoseconds)
    var patience = BusyPatience(
      heartbeatBudgetNanoseconds: configuration.heartbeatBudgetNanoseconds)
    var hasToldWhy = false
    while true {
      var last: (Endpoint, HandshakeError)?
      for endpoint in configuration.sources {
        do throws(HandshakeError) {
          return .linked(try join(endpoint, deadline, &patience))
        } catch {
          if let end = Self.end(of: error, patience) { return .ended(end) }
          last = (endpoint, error)
        }
      }
      guard let (endpoint, error) = last, MonotonicClock.now() < deadline else {
        return .ended(last?.1.refusal ?? Refusal(.timeout, "no address to dial"))
      }
      if !hasToldWhy {
        hasToldWhy = true
        tell(.failed(endpoint, "\(error)"))
      }
      if rest(nanoseconds: Self.restNanoseconds) { return .ended(Self.stopped) }
    }
  }

  /// Why a first dial ends with that failure; nil when it is of use to go on.
  private static func end(of error: HandshakeError, _ patience: BusyPatience) -> Refusal? {
    switch error {
    case .connection(let failure):
      if failure.kind == .cancelled { return stopped }
      // Nobody's waiting makes a certificate good, or a peer speak TLS.
      if case .tls(let problem) = failure.kind, problem.isFinal {
        return Refusal(.unfit, "\(failure)")
      }
      return nil
    case .refused(let refusal):
      let isOurs = refusal.code == .busy && patience.covers(MonotonicClock.now())
      return isOurs ? nil : refusal
    case .wire: return error.refusal
    }
  }

  private func join(
    _ endpoint: Endpoint, _ deadline: Instant, _ patience: inout BusyPatience
  ) throws(HandshakeError) -> SourceLinks {
    let limit = Self.attemptNanoseconds
    let urgent = try dial(endpoint, .urgent, within: limit, deadline)
    do throws(HandshakeError) {
      let welcome = try Handshake.introduce(hello(.urgent, session), on: urgent)
      do throws(HandshakeError) {
        return SourceLinks(
          source: endpoint, urgent: urgent,
          bulk: try joinBulk(endpoint, welcome, within: limit, deadline), welcome: welcome)
      } catch .refused(let refusal) where refusal.code == .session {
        // It had welcomed us: the urgent connection was lost meanwhile.
        throw .connection(ConnectionError(.cut, "bulk handshake", peer: "\(endpoint)"))
      }
    } catch {
      // The hello may have been heard, whatever became of the welcome.
      if case .connection = error { patience.helloLost(at: MonotonicClock.now()) }
      throw error
    }
  }

  // MARK: The last word

  /// The hello is the word, the welcome shows that it was heard, and the source's end that it has
  /// been acted upon: it journals what follows from it before it closes.
  private func dialToTell() -> DestinationSession.DialResult {
    while true {
      for endpoint in configuration.sources {
        do throws(HandshakeError) {
          let urgent = try dial(endpoint, .urgent, within: Self.attemptNanoseconds, nil)
          _ = try Handshake.introduce(hello(.urgent, session), on: urgent)
          awaitEnd(of: urgent)
          return .told
        } catch .connection(let failure) where failure.kind == .cancelled {
          return .ended(Self.stopped)
        } catch { tell(.failed(endpoint, error.description)) }
      }
      if rest(nanoseconds: Self.restNanoseconds) { return .ended(Self.stopped) }
    }
  }

  private func awaitEnd(of connection: Connection) {
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.attemptNanoseconds)
    // Whatever ends it, the word is said.
    while (try? connection.waitReadable(or: cancel, until: deadline)) == .readable,
      (try? connection.receiveAvailable(atMost: 4096)) != nil
    {}
    connection.shutdown()
  }

  // MARK: After a loss

  /// Urgent first, and told at once; then bulk, with which this dial ends: from its welcome on the
  /// urgent connection is the session's, and goes down when the others do not follow. An address
  /// that takes the connection and says nothing costs a heartbeat budget, or some round trips where
  /// these are longer; then the next one has its turn.
  private func dialAgain(
    _ lost: Instant, _ roundTrip: UInt64?, _ useless: Endpoint?
  ) -> DestinationSession.DialResult {
    let sources = configuration.sources
    let endpoints = sources.filter { $0 != useless } + sources.filter { $0 == useless }
    let attempt = max(Self.restNanoseconds, 4 * (roundTrip ?? Self.attemptNanoseconds))
    var told: [String] = []
    while true {
      for endpoint in endpoints {
        do throws(HandshakeError) {
          let urgent = try dial(endpoint, .urgent, within: attempt, nil)
          let welcome = try Handshake.introduce(
            hello(.urgent, session), on: urgent,
            limitNanoseconds: max(attempt, configuration.heartbeatBudgetNanoseconds))
          tell(.relinked(urgent, welcome, endpoint))
          return bulkLinked(endpoint, welcome, within: max(attempt, Self.attemptNanoseconds))
        } catch {
          if case .connection(let failure) = error, failure.kind == .cancelled {
            return .ended(Self.stopped)
          }
          if case .refused(let refusal) = error { tell(.refused(refusal)) }
          // Each reason once: an outage can last for days.
          if !told.contains(error.description), told.count < Self.maximumToldCount {
            told.append(error.description)
            tell(.failed(endpoint, error.description))
          }
        }
      }
      let outage = MonotonicClock.now().nanoseconds(since: lost)
      if rest(nanoseconds: Self.restNanoseconds(afterOutage: outage)) {
        return .ended(Self.stopped)
      }
    }
  }

  private func bulkLinked(
    _ endpoint: Endpoint, _ welcome: Welcome, within limit: UInt64
  ) -> DestinationSession.DialResult {
    do throws(HandshakeError) {
      return .bulkLinked(try joinBulk(endpoint, welcome, within: limit, nil))
    } catch .connection(let failure) where failure.kind == .cancelled {
      return .ended(Self.stopped)
    } catch {
      // Also a refusal: it has taken the urgent connection, so it means this link and no more.
      return .bulkLost(
        endpoint, Refusal(.timeout, "a bulk connection was not made: \(error)"))
    }
  }

  /// A fresh attempt every 100 ms at first, for the kernel repeats a lost SYN only after a second;
  /// in a long outage every hundredth of its length, 2 s at most: what is lost by it is never more
  /// than a hundredth of what the outage has cost.
  static func restNanoseconds(afterOutage outage: UInt64) -> UInt64 {
    min(max(restNanoseconds, outage / 100), 2_000_000_000)
  }

  // MARK: Both

  /// How long a source that is not there yet is left alone before the next attempt.
  private static let restNanoseconds: UInt64 = 100_000_000
  /// Above the round trip of any link over which a VM can be moved.
  private static let attemptNanoseconds: UInt64 = 2_000_000_000
  private static let maximumToldCount = 8

  private static let stopped = Refusal(.operatorRequest, "stopped by the operator")

  private func tell(_ news: DestinationSession.DialNews) {
    DestinationSession.tell(.dialNews(news, dial: number), inputs)
  }

  /// True when the operator stopped it, or the session has no use for it any more.
  private func rest(nanoseconds: UInt64) -> Bool {
    let end = MonotonicClock.now().advanced(byNanoseconds: nanoseconds)
    // A wait that fails is no rest; the dialling itself then tells what is wrong.
    let ready = try? Readiness.wait(for: [cancel.rawValue], until: end)
    return ready?.first == true
  }

  private func joinBulk(
    _ endpoint: Endpoint, _ welcome: Welcome, within limit: UInt64, _ deadline: Instant?
  ) throws(HandshakeError) -> [Connection] {
    var bulk: [Connection] = []
    for _ in 0..<welcome.bulkConnectionCount {
      let connection = try dial(endpoint, .bulk, within: limit, deadline)
      _ = try Handshake.introduce(hello(.bulk, welcome.session), on: connection)
      bulk.append(connection)
    }
    return bulk
  }

  private func dial(
    _ endpoint: Endpoint, _ purpose: Connection.Purpose, within limit: UInt64,
    _ deadline: Instant?
  ) throws(HandshakeError) -> Connection {
    // A lost SYN, or an address that swallows them, must not use up the others' time.
    let attempt = MonotonicClock.now().advanced(byNanoseconds: limit)
    do throws(ConnectionError) {
      return try Connection.dial(
        endpoint, purpose: purpose, tls: configuration.security.context,
        until: min(deadline ?? attempt, attempt), cancel: cancel)
    } catch { throw .connection(error) }
  }

  private func hello(_ role: ConnectionRole, _ session: SessionID) -> Hello {
    Hello(
      role: role, session: session, epoch: epoch, progress: progress, token: configuration.token,
      vmName: configuration.vmName.text, regions: role == .urgent ? regions : [])
  }
}
