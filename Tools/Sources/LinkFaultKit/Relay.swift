internal import Pages
internal import System
public import Uring

/// What a relay is told at its start.
public struct RelayOptions: Sendable {
  /// Where the client dials.
  public var listen: Endpoint
  /// Whom the relay dials for it.
  public var connect: Endpoint
  /// A UNIX socket for orders.
  public var controlPath: String?
  /// What random choices begin with.
  public var seed: UInt64
  /// Orders whose time counts from the first connection on.
  public var orders: [FaultOrder]
  /// It ends at the latest after that time.
  public var limitSeconds: UInt64
  /// It ends so long after its last link.
  public var idleSeconds: UInt64

  /// A relay between two addresses, without orders, for ten minutes.
  public init(listen: Endpoint, connect: Endpoint) {
    self.listen = listen
    self.connect = connect
    seed = 1
    orders = []
    limitSeconds = 600
    idleSeconds = 60
  }
}

/// Passes connections on and does to them what it is told. One thread does all of it.
public final class Relay {
  /// Links at once. A client that redials every 100 ms into a silent relay needs a hundred seconds
  /// for so many; beyond them none is taken.
  static let maximumLinkCount = 1024
  /// How long both sides of a cut link have to close theirs.
  static let cutNanoseconds: UInt64 = 2_000_000_000
  /// A dial inside this host answers at once; one that is refused ends the client's link.
  static let dialNanoseconds: UInt64 = 1_000_000_000

  let options: RelayOptions
  var log = RelayLog()
  var listener: Listener?
  var links: [Link] = []
  var acceptedCount = 0
  /// The next connection waits for so many later ones.
  var holdsNextFor = 0
  /// Orders that last, with the moment at which they end.
  var standing: [StandingOrder] = []
  /// Orders whose moment has not come.
  var scheduled: [(due: Instant, order: FaultOrder)] = []
  /// Orders that wait for a link to have carried enough.
  var watching: [FaultOrder] = []
  var isQuitting = false
  var faultCount = 0

  /// Where it listens, with the port that the kernel chose: also while it refuses.
  public let address: Endpoint
  private let control: RelayControl?
  private var lastActive: Instant

  /// Listens. The log goes to standard output unless `isQuiet`; `observer` sees it in any case.
  public init(
    _ options: RelayOptions, isQuiet: Bool = false, observer: ((RelayEvent) -> Void)? = nil
  ) throws(ConnectionError) {
    self.options = options
    log.isQuiet = isQuiet
    log.observer = observer
    let listener = try Listener(options.listen)
    self.listener = listener
    address = listener.endpoint
    control = try options.controlPath.map { (path) throws(ConnectionError) in
      try RelayControl(path: path)
    }
    lastActive = MonotonicClock.now()
  }

  /// Works until it is told to quit, `stop` becomes readable, a limit has passed, or no link has
  /// been open for the idle time after the first one.
  public func run(stop: Int32? = nil) throws {
    let end = MonotonicClock.now().advanced(byNanoseconds: options.limitSeconds * 1_000_000_000)
    log.note("listening", text: address.description)
    while !isQuitting {
      let now = MonotonicClock.now()
      guard now < end else { return finish("time limit") }
      if !links.isEmpty || acceptedCount == 0 { lastActive = now }
      guard now.nanoseconds(since: lastActive) < options.idleSeconds * 1_000_000_000 else {
        return finish("both sides are gone")
      }
      carryOutDueOrders(now: now)
      dialWaiting()
      if try step(now: now, end: end, stop: stop) { return finish("stopped") }
    }
    finish("told to quit")
  }

  private func finish(_ reason: String) {
    links.removeAll()
    log.note("ended", text: reason)
  }

  /// Waits for whatever comes next and does it; true when it is to stop.
  private func step(now: Instant, end: Instant, stop: Int32?) throws(SystemError) -> Bool {
    // Whatever has ended them since: a reset is one only once its socket is closed.
    links.removeAll { link in
      guard link.isOver else { return false }
      log.note("closed", link: link)
      return true
    }
    var entries: [PollEntry] = [
      PollEntry(descriptor: stop ?? -1, wantsRead: stop != nil),
      PollEntry(
        descriptor: listener?.rawDescriptor ?? -1,
        wantsRead: listener != nil && links.count < Self.maximumLinkCount),
      PollEntry(
        descriptor: control?.listener.rawDescriptor ?? -1, wantsRead: control?.hasRoom ?? false),
    ]
    for client in control?.clients ?? [] {
      entries.append(PollEntry(descriptor: client.connection.rawDescriptor, wantsRead: true))
    }
    let linksStart = entries.count
    var due = min(end, lastActive.advanced(byNanoseconds: options.idleSeconds * 1_000_000_000))
    for link in links {
      entries.append(link.clientEntry(now: now))
      entries.append(link.serverEntry(now: now))
      for moment in link.dueMoments(now: now) { due = min(due, moment) }
    }
    for order in scheduled { due = min(due, order.due) }
    for order in standing { if let end = order.end { due = min(due, end) } }
    try RelayPoll.wait(&entries, until: due)
    if entries[0].isReadable { return true }
    let working = links
    for (index, link) in working.enumerated() {
      work(on: link, entries[linksStart + 2 * index], entries[linksStart + 2 * index + 1])
    }
    for index in (3..<linksStart).reversed() where entries[index].isReadable {
      control?.serve(clientAt: index - 3) { order in answer(order) }
    }
    if entries[2].isReadable { control?.acceptClient() }
    if entries[1].isReadable { acceptLink() }
    return false
  }

  private func acceptLink() {
    guard let connection = try? listener?.accept(until: MonotonicClock.now()) else { return }
    connection.keepWhateverComes()
    if acceptedCount == 0 {
      for order in options.orders { accept(order, now: MonotonicClock.now()) }
    }
    let link = Link(number: acceptedCount, client: connection)
    acceptedCount += 1
    if holdsNextFor > 0 {
      link.heldUntilNumber = acceptedCount + holdsNextFor
      holdsNextFor = 0
    }
    links.append(link)
    log.note("opened", link: link)
    for order in standing { begin(order.order, on: link) }
    for order in watching { watch(order, on: link) }
  }

  /// Dials for the links that have to wait no longer.
  private func dialWaiting() {
    let isSilent = standing.contains { $0.order.action == .silent }
    for link in links where link.server == nil && !link.isOver && link.isCutUntil == nil {
      // A lost network loses the client's first packet as well.
      guard !isSilent, acceptedCount >= link.heldUntilNumber, !link.toServer.isDropping else {
        continue
      }
      do throws(ConnectionError) {
        let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.dialNanoseconds)
        let server = try Connection.dial(options.connect, purpose: .urgent, until: deadline)
        server.keepWhateverComes()
        link.server = server
        log.note("connected", link: link)
      } catch {
        link.reset()
        log.note("unreachable", link: link, text: "\(error)")
      }
    }
  }
}

/// An order that lasts.
struct StandingOrder {
  let order: FaultOrder
  /// nil: until it is cleared.
  let end: Instant?
}
