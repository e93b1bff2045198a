internal import Glibc
internal import Pages
public import System

/// What the control socket asks of a session. Called on the control socket's own thread: answer
/// from what is at hand, wait for nothing.
public protocol SessionControl: Sendable {
  /// What it does now.
  var status: SessionStatus { get }
  /// Passes a stop on to the session's thread: `operatorPark` or `operatorAbort`. False when it
  /// takes none any more.
  func ask(for stop: SessionStop) -> Bool
}

/// The stops that an operator can ask for.
public enum SessionStop: Hashable, Sendable {
  /// With everything kept.
  case park
  /// Giving up, as by SIGTERM.
  case abort
}

/// What is asked of a session, at a desk that its own thread keeps up to date: all that a session
/// needs to be controlled.
public final class SessionDesk: SessionControl {
  private let present: Lock<SessionStatus>
  private let pass: @Sendable (SessionStop) -> Bool

  /// `pass` posts a stop to the session's mailbox; false when it is full.
  public init(_ status: SessionStatus, pass: @escaping @Sendable (SessionStop) -> Bool) {
    present = Lock(status)
    self.pass = pass
  }

  /// As the session has told it last.
  public var status: SessionStatus { present.withLock { $0 } }

  /// Tells something new. Takes a lock for as long as `change` does: not for the fault path.
  public func update(_ change: (inout SessionStatus) -> Void) { present.withLock { change(&$0) } }

  /// Passes it on.
  public func ask(for stop: SessionStop) -> Bool { pass(stop) }
}

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
      let fixed = [stop.rawValue, events.readiness.rawValue, door.listener.rawValue]
      guard let ready = try? Readiness.wait(for: fixed + clients.map { $0.stream.rawValue }) else {
        // Out of memory for a poll: the session goes on without its socket.
        return
      }
      for (client, isReady) in zip(clients, ready[fixed.count...]) where isReady { serve(client) }
      while let line = events.take() {
        let bytes = Array(line.utf8) + [0x0A]
        for client in clients where client.wantsEvents { client.send(bytes) }
      }
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
      while let line = client.lines.next() { answer(line, client) }
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

  private func answer(_ line: [UInt8], _ client: ControlClient) {
    switch SessionRequest.parse(line) {
    case .failure(let error): client.send(SessionAnswer.failed(error.reason).line)
    case .success(let verb): client.send(answer(verb, client).line)
    }
  }

  private func answer(_ verb: SessionVerb, _ client: ControlClient) -> SessionAnswer {
    switch verb {
    case .status: return .done(control.status)
    case .events:
      client.wantsEvents = true
      return .done()
    case .park, .abort:
      return control.ask(for: verb == .park ? .park : .abort)
        ? .done() : .failed("the session takes no stop now; ask again")
    case .adopt:
      guard let channel = client.descriptors.takeFirst() else {
        return .failed("adopt comes with one end of a channel")
      }
      return keeper.adopt(DescriptorStream(adopting: channel))
        ? .done() : .failed("this worker has a keeper, which lives")
    }
  }
}
