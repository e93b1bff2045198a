internal import Glibc
internal import Pages
public import System

/// A session's control socket: one JSON object a line, for this user and root alone. A thread of
/// its own serves it; the session's never waits for a client.
///
/// Nothing is queued for a client but what its socket's buffer takes: one that lets it fill up is
/// cut off.
public final class ControlSocket: Sendable {
  /// An operator or two, a parent, a monitor.
  public static let maximumClientCount = 8
  /// Events that wait for the thread; it does nothing that takes long.
  static let eventCapacity = 256

  /// Where it listens.
  public let path: String
  private let events: Mailbox<String>
  private let stop: WakeEvent
  private let thread: Lock<WorkerThread?>

  /// Listens at `path` (mode 0600; its directory must be there). EADDRINUSE while another process
  /// listens there.
  public init(
    path: String, control: any SessionControl, keeper: KeeperClient
  ) throws(SystemError) {
    self.path = path
    let door = ControlDoor(try DescriptorListener(path: path))
    let events = try Mailbox<String>(capacity: Self.eventCapacity)
    let stop = try WakeEvent()
    self.events = events
    self.stop = stop
    let started = try WorkerThread(name: "control") {
      ControlLoop(door: door, control: control, keeper: keeper, events: events, stop: stop).run()
    }
    thread = Lock(started)
  }

  deinit { close() }

  /// Tells every client that listens for events; one line without its end. Never blocks. False when
  /// so many wait that this one was dropped.
  @discardableResult
  public func publish(_ line: String) -> Bool { events.post(line) }

  /// Sends what was published, closes all connections and removes the socket. Call it while the
  /// VM's lock is still held: the next session listens at the same place.
  public func close() {
    let taken: WorkerThread? = thread.withLock { $0.take() }
    guard let taken else { return }
    stop.signal()
    taken.join()
  }
}

/// The listener on its way to the thread.
private final class ControlDoor: Sendable {
  let listener: DescriptorListener

  init(_ listener: consuming DescriptorListener) { self.listener = listener }
}

/// A client, and what it has sent so far.
private final class ControlClient {
  let stream: DescriptorStream
  var lines = LineSplitter(maximumByteCount: SessionRequest.maximumLineByteCount)
  var descriptors = DescriptorList()
  var wantsEvents = false
  /// The order that it gave and that is not answered; it is not heard before.
  var ticket: UInt64?
  var isGone = false

  init(_ stream: consuming DescriptorStream) { self.stream = stream }

  func send(_ bytes: [UInt8]) {
    guard !isGone else { return }
    do throws(SystemError) {
      try stream.send(bytes)
    } catch {
      // Gone, or reads nothing: either way the session owes it nothing.
      isGone = true
    }
  }
}

/// The thread of a control socket.
private final class ControlLoop {
  private let door: ControlDoor
  private let control: any SessionControl
  private let keeper: KeeperClient
  private let events: Mailbox<String>
  private let stop: WakeEvent
  private var clients: [ControlClient] = []
  private var piece = [UInt8](repeating: 0, count: SessionRequest.maximumLineByteCount)
  private var lastTicket: UInt64 = 0

  init(
    door: ControlDoor, control: any SessionControl, keeper: KeeperClient,
    events: Mailbox<String>, stop: WakeEvent
  ) {
    self.door = door
    self.control = control
    self.keeper = keeper
    self.events = events
    self.stop = stop
  }

  func run() {
    while true {
      let fixed = [
        stop.rawValue, events.readiness.rawValue, door.listener.rawValue,
        control.verdicts.readiness.rawValue,
      ]
      // poll(2) passes over negative numbers.
      let streams = clients.map { $0.ticket == nil ? $0.stream.rawValue : -1 }
      guard let ready = try? Readiness.wait(for: fixed + streams) else {
        // Out of memory for a poll: the session goes on without its socket.
        return
      }
      for (client, isReady) in zip(clients, ready[fixed.count...]) where isReady { serve(client) }
      while let line = events.take() {
        let bytes = Array(line.utf8) + [0x0A]
        for client in clients where client.wantsEvents { client.send(bytes) }
      }
      while let verdict = control.verdicts.take() { tell(verdict) }
      clients.removeAll(where: \.isGone)
      if ready[0] { return }
      if ready[2] { admit() }
    }
  }

  private func admit() {
    // A deadline in the past: whoever was there has given up, and the next one makes it readable.
    guard let stream = try? door.listener.accept(until: Instant(nanoseconds: 0)),
      (try? stream.makeNonBlocking()) != nil, let peer = try? stream.peer()
    else { return }
    let client = ControlClient(stream)
    guard peer.user == 0 || peer.user == geteuid() else {
      return client.send(SessionAnswer.failed("user \(peer.user) may ask nothing here").line)
    }
    guard clients.count < ControlSocket.maximumClientCount else {
      return client.send(
        SessionAnswer.failed("\(clients.count) clients are connected already").line)
    }
    clients.append(client)
  }

  private func serve(_ client: ControlClient) {
    let received: DescriptorStream.Received
    do throws(SystemError) {
      received = try client.stream.receive(
        into: &piece, descriptors: &client.descriptors, until: Instant(nanoseconds: 0))
    } catch {
      return client.isGone = true
    }
    switch received {
    case .stopped, .timedOut: return
    case .endOfStream: client.isGone = true
    case .bytes(let count):
      let isWithinLimit = client.lines.append(piece[..<count])
      answerLines(client)
      guard isWithinLimit else {
        client.send(
          SessionAnswer.failed(
            "a line has at most \(SessionRequest.maximumLineByteCount) bytes"
          ).line)
        return client.isGone = true
      }
      // Descriptors that no request took are nobody's.
      client.descriptors = DescriptorList()
    }
  }

  /// Answers come in the order of the questions: what is behind an order waits for its answer.
  private func answerLines(_ client: ControlClient) {
    while client.ticket == nil, let line = client.lines.next() {
      switch SessionRequest.parse(line) {
      case .failure(let error): client.send(SessionAnswer.failed(error.reason).line)
      case .success(let request):
        if let answer = answer(request, client) { client.send(answer.line) }
      }
    }
  }

  private func tell(_ verdict: OrderVerdict) {
    for client in clients {
      guard let ticket = client.ticket, verdict.ticket ?? ticket == ticket else { continue }
      client.ticket = nil
      client.send(verdict.answer.line)
      answerLines(client)
    }
  }

  private func ask(_ order: SessionOrder, for client: ControlClient) -> SessionAnswer? {
    lastTicket += 1
    let answer = control.ask(for: order, ticket: lastTicket)
    if answer == nil { client.ticket = lastTicket }
    return answer
  }

  /// nil: it will be told.
  private func answer(_ request: SessionRequest, _ client: ControlClient) -> SessionAnswer? {
    switch request.verb {
    case .status: return .done(control.status)
    case .events:
      client.wantsEvents = true
      return .done()
    case .park: return ask(.park, for: client)
    case .abort: return ask(.abort, for: client)
    case .switchOver: return ask(.switchOver, for: client)
    case .limitBandwidth:
      return ask(.limitBandwidth(bytesPerSecond: request.bytesPerSecond), for: client)
    case .adopt:
      guard let channel = client.descriptors.takeFirst() else {
        return .failed("adopt comes with one end of a channel")
      }
      return keeper.adopt(DescriptorStream(adopting: channel))
        ? .done() : .failed("this worker has a keeper, which lives")
    }
  }
}
