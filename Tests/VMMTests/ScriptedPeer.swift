import CLinux
import Glibc
import System
import Testing

/// One thing that the peer at the other end of a control socket does.
enum Act: Sendable {
  /// Reads one line and keeps it.
  case read
  /// Sends these bytes.
  case say(String)
  /// Closes this connection and waits for the next one.
  case hangUp
  /// Says nothing until the test is over.
  case stay
}

/// A UNIX socket whose peer follows a script, connection by connection.
final class ScriptedPeer: Sendable {
  let path: String
  private let received = Lock<[String]>([])
  private let stop: OwnedDescriptor
  private let thread: Lock<JoinOnce>

  /// Holds the thread until it is joined.
  final class JoinOnce: @unchecked Sendable {
    var join: (() -> Void)?
  }

  init(_ script: [Act]) throws {
    let digits = try RandomBytes.make(8).map { String($0, radix: 16) }.joined()
    path = "/tmp/postcopy-peer-\(getpid())-\(digits)"
    let listener = OwnedDescriptor(
      adopting: socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    let bound = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(listener.rawValue, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    try #require(bound == 0 && listen(listener.rawValue, 8) == 0)
    stop = try .event()
    let number = listener.release()
    let (received, stopNumber) = (received, stop.rawValue)
    let worker = try WorkerThread(name: "peer") {
      Self.follow(script, listener: number, stop: stopNumber) { line in
        received.withLock { $0.append(line) }
      }
      close(number)
    }
    let once = JoinOnce()
    let box = ThreadBox(worker)
    once.join = { box.join() }
    thread = Lock(once)
  }

  /// The lines that came so far.
  var lines: [String] { received.withLock { $0 } }

  /// Lets a peer that stays go, and waits for its end.
  func finish() {
    var one: UInt64 = 1
    _ = unsafe write(stop.rawValue, &one, 8)
    thread.withLock { once in
      once.join?()
      once.join = nil
    }
    _ = unsafe unlink(path)
  }

  private static func follow(
    _ script: [Act], listener: Int32, stop: Int32, keep: (String) -> Void
  ) {
    var connection: OwnedDescriptor?
    var rest: [UInt8] = []
    for act in script {
      if connection == nil {
        guard wait(listener, stop) else { return }
        connection = unsafe OwnedDescriptor(adopting: accept(listener, .init(), nil))
        rest = []
      }
      guard let number = connection?.rawValue else { return }
      switch act {
      case .read:
        guard let line = readLine(number, &rest, stop) else { return }
        keep(line)
      case .say(let text):
        let bytes = Array(text.utf8)
        _ = unsafe bytes.withUnsafeBytes { unsafe send(number, $0.baseAddress, $0.count, 0x4000) }
      case .hangUp: connection = nil
      case .stay: _ = wait(-1, stop)
      }
    }
    _ = wait(-1, stop)
  }

  private static func readLine(_ number: Int32, _ rest: inout [UInt8], _ stop: Int32) -> String? {
    while true {
      if let end = rest.firstIndex(of: 0x0A) {
        defer { rest.removeFirst(end + 1) }
        return String(decoding: rest[..<end], as: UTF8.self)
      }
      guard wait(number, stop) else { return nil }
      var piece = [UInt8](repeating: 0, count: 4096)
      let count = unsafe recv(number, &piece, piece.count, 0)
      guard count > 0 else { return nil }
      rest += piece[..<count]
    }
  }

  /// Waits for `number`, false when the test is over. Ten seconds are enough for any test here.
  private static func wait(_ number: Int32, _ stop: Int32) -> Bool {
    var entries = [
      pollfd(fd: number, events: Int16(POLLIN), revents: 0),
      pollfd(fd: stop, events: Int16(POLLIN), revents: 0),
    ]
    _ = unsafe poll(&entries, 2, 10_000)
    return entries[0].revents != 0
  }
}

/// A thread in a class, so that a closure can join it.
private final class ThreadBox: @unchecked Sendable {
  private var worker: WorkerThread?

  init(_ worker: consuming WorkerThread) { self.worker = consume worker }

  func join() { worker.take()?.join() }
}

/// Runs a test against a peer and ends the peer whatever happens.
func withPeer(_ script: [Act], _ body: (ScriptedPeer) throws -> Void) throws {
  let peer = try ScriptedPeer(script)
  defer { peer.finish() }
  try body(peer)
}
