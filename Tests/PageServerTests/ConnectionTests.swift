import CLinux
import Foundation
import Pages
import System
import Testing
import Uring

func soon(_ seconds: UInt64 = 20) -> Instant {
  MonotonicClock.now().advanced(byNanoseconds: seconds * 1_000_000_000)
}

/// A path for a socket or file that no other test uses.
func temporaryPath(_ suffix: String) -> String {
  "/tmp/ps-\(getpid())-\(UInt32.random(in: 0 ... .max)).\(suffix)"
}

extension Connection {
  func send(_ bytes: [UInt8]) throws { unsafe try send(bytes.span.bytes) }

  func receiveAll(_ count: Int, until deadline: Instant? = soon()) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = unsafe span.mutableBytes
    try receiveAll(into: &raw, until: deadline)
    return bytes
  }
}

@Suite struct EndpointTests {
  @Test(arguments: [
    ("127.0.0.1:7000", Endpoint.internet(host: "127.0.0.1", port: 7000), true),
    ("10.0.0.1:0", .internet(host: "10.0.0.1", port: 0), false),
    ("[::1]:65535", .internet(host: "::1", port: 65535), true),
    ("[fe80::1%eth0]:1", .internet(host: "fe80::1%eth0", port: 1), false),
    ("localhost:1", .internet(host: "localhost", port: 1), true),
    ("127.evil.example:1", .internet(host: "127.evil.example", port: 1), false),
    ("unix:/run/x", .unix(path: "/run/x"), true),
  ]) func parsesAndPrints(_ text: String, _ expected: Endpoint, _ isLocal: Bool) throws {
    let endpoint = try Endpoint(parsing: text)
    #expect(endpoint == expected)
    #expect(endpoint.isLocal == isLocal)
    #expect(endpoint.description == text)
  }

  @Test(arguments: [
    ("host", EndpointError.missingPort("host")), ("h:65536", .badPort("65536")),
    ("h:", .badPort("")), ("h:-1", .badPort("-1")), (":1", .badHost("")),
    ("a b:1", .badHost("a b")),
    ("::1:7", .bareIPv6("::1:7")), ("[host]:1", .badHost("host")), ("unix:", .emptyPath),
    (
      "unix:" + String(repeating: "x", count: 108), .pathTooLong(String(repeating: "x", count: 108))
    ),
  ]) func refuses(_ text: String, _ expected: EndpointError) {
    #expect(throws: expected) { try Endpoint(parsing: text) }
  }
}

@Suite(.timeLimit(.minutes(5))) struct ConnectionTests {
  static let endpoints = ["127.0.0.1:0", "[::1]:0", "localhost:0", "unix:"]

  func listen(_ text: String) throws -> Listener {
    try Listener(
      text == "unix:" ? .unix(path: temporaryPath("sock")) : Endpoint(parsing: text))
  }

  func connected(
    _ text: String, _ purpose: Connection.Purpose = .urgent
  ) throws -> (Connection, Connection) {
    let listener = try listen(text)
    let client = try Connection.dial(listener.endpoint, purpose: purpose, until: soon())
    return (client, try listener.accept(until: soon()))
  }

  @Test(arguments: endpoints) func carriesBytesBothWays(_ text: String) throws {
    let (client, server) = try connected(text)
    try server.setPurpose(.bulk)
    #expect(client.isLocal && server.isLocal)
    try client.send([1, 2, 3])
    #expect(try server.receiveAll(3) == [1, 2, 3])
    try server.send([9])
    #expect(try client.receiveAll(1) == [9])
  }

  @Test func aNameThatDoesNotExistSaysSo() {
    let error = #expect(throws: ConnectionError.self) {
      try Connection.dial(
        .internet(host: "no-such-host.invalid", port: 1), purpose: .urgent, until: soon())
    }
    if case .nameNotFound = error?.kind {} else { Issue.record("\(String(describing: error))") }
  }

  @Test(arguments: ["127.0.0.1:0", "unix:"]) func nobodyListensIsRefused(_ text: String) throws {
    let endpoint = try listen(text).endpoint
    let error = #expect(throws: ConnectionError.self) {
      try Connection.dial(endpoint, purpose: .urgent, until: soon())
    }
    #expect(error?.kind == .refused)
  }

  @Test func aDeadlineEndsAcceptReceiveAndSend() throws {
    let listener = try listen("unix:")
    let past = MonotonicClock.now()
    #expect(throws: ConnectionError.self) { try listener.accept(until: past) }
    let (client, server) = try connected("unix:")
    let late = #expect(throws: ConnectionError.self) { try client.receiveAll(1, until: past) }
    #expect(late?.kind == .timedOut)
    let full = #expect(throws: ConnectionError.self) {
      let piece = [UInt8](repeating: 7, count: 1 << 20)
      while true { unsafe try client.send(piece.span.bytes, until: past) }
    }
    #expect(full?.kind == .timedOut)
    _ = server
  }

  @Test func anEventEndsAcceptAndWaiting() throws {
    let event = try WakeEvent()
    event.signal()
    let listener = try listen("127.0.0.1:0")
    let error = #expect(throws: ConnectionError.self) { try listener.accept(cancel: event) }
    #expect(error?.kind == .cancelled)
    let (client, server) = try connected("unix:")
    #expect(try client.waitReadable(or: event) == .event)
    #expect(event.drain())
    #expect(!event.drain())
    try server.send([1])
    #expect(try client.waitReadable(or: event) == .readable)
  }

  @Test func theEndOfTheStreamIsTold() throws {
    let (client, server) = try connected("127.0.0.1:0")
    try client.send([1, 2])
    client.shutdown()
    let inside = #expect(throws: ConnectionError.self) { try server.receiveAll(3) }
    #expect(inside?.kind == .closedByPeer)
    let own = #expect(throws: ConnectionError.self) { try client.receiveAll(1) }
    #expect(own?.kind == .shutDownHere)
    let sent = #expect(throws: ConnectionError.self) { try client.send([1]) }
    #expect(sent?.kind == .shutDownHere)
  }

  @Test(arguments: ["127.0.0.1:0", "unix:"]) func sendingToADeadPeerIsAnErrorNoSignal(
    _ text: String
  ) throws {
    let client: Connection
    do {
      let pair = try connected(text)
      client = pair.0
      // Unread bytes at close make the kernel reset instead of ending in good order.
      try client.send([1])
    }
    let error = #expect(throws: ConnectionError.self) {
      while true { try client.send([UInt8](repeating: 0, count: 65536)) }
    }
    #expect(error?.kind == .reset)
  }

  @Test(arguments: ["127.0.0.1:0", "unix:"]) func shutdownEndsBlockedCallsOfOtherThreads(
    _ text: String
  ) throws {
    let (client, server) = try connected(text)
    let ends = Lock<[ConnectionError.Kind]>([])
    let receiver = try WorkerThread(name: "receiver") {
      do { _ = try client.receiveAll(1, until: nil) } catch let error as ConnectionError {
        ends.withLock { $0.append(error.kind) }
      } catch { Issue.record(error) }
    }
    let sender = try WorkerThread(name: "sender") {
      do {
        while true { try client.send([UInt8](repeating: 0, count: 1 << 20)) }
      } catch let error as ConnectionError {
        ends.withLock { $0.append(error.kind) }
      } catch { Issue.record(error) }
    }
    // The sender is at work: what it sends fills the queues, and nobody takes it out.
    _ = try server.receiveAll(1)
    client.shutdown()
    receiver.join()
    sender.join()
    #expect(ends.withLock { $0 } == [.shutDownHere, .shutDownHere])
  }

  @Test func aSocketFileIsPrivateAndRemovedAndAStaleOneReplaced() throws {
    let path = temporaryPath("sock")
    func mode() -> mode_t? {
      var status = stat()
      return unsafe lstat(path, &status) == 0 ? status.st_mode : nil
    }
    do {
      let listener = try Listener(.unix(path: path))
      #expect(mode() == S_IFSOCK | 0o600)
      let error = #expect(throws: ConnectionError.self) { try Listener(.unix(path: path)) }
      #expect(error?.kind == .addressInUse)
      _ = listener
    }
    #expect(mode() == nil)
    // What a killed process leaves: a bound file without a listener.
    let stale = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    let bound = unsafe withUnsafeMutablePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(
          stale, .init(__sockaddr__: $0), socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    #expect(bound == 0)
    close(stale)
    #expect(mode() != nil)
    _ = try Listener(.unix(path: path))
    // A file that is no socket is nobody's to remove.
    #expect(FileManager.default.createFile(atPath: path, contents: nil))
    #expect(throws: ConnectionError.self) { try Listener(.unix(path: path)) }
    #expect(unsafe unlink(path) == 0)
  }

  @Test func tryReceiveAndTrySendNeverBlock() throws {
    let (client, server) = try connected("unix:")
    var bytes = [UInt8](repeating: 0, count: 16)
    var span = bytes.mutableSpan
    var raw = unsafe span.mutableBytes
    #expect(try server.tryReceive(into: &raw) == nil)
    let piece = [UInt8](repeating: 3, count: 1 << 16)
    while unsafe try client.trySend(piece.span.bytes) > 0 {}
    #expect(try server.tryReceive(into: &raw) == 16)
  }
}
