internal import CLinux
internal import FoundationEssentials
internal import Glibc
internal import Pages
public import System
internal import VMM

/// The control socket of a test VMM: one JSON object a line in, one a line out.
///
/// It serves until the process ends. Each client has a thread of its own: one that waits for pages
/// must not keep another from asking for the status.
public final class ControlServer: Sendable {
  /// Enough for a migration's two ends, a person and a test. The next one waits in the backlog.
  private static let clientThreadCount = 8
  private static let backlog: Int32 = 8
  /// A client may be silent for as long as it likes.
  private static let noDeadline = Instant(nanoseconds: UInt64.max)
  /// What a client gets to take a reply off our hands.
  private static let sendNanoseconds: UInt64 = 10_000_000_000

  private let machine: TestMachine
  private let path: String
  private let listener: OwnedDescriptor
  private let threads = ThreadGroup()
  /// Signalled when a client asked the process to end.
  public let quit: WakeEvent

  /// Listens at `path`, which must not exist; only this user may connect.
  public init(_ machine: TestMachine, path: String) throws(SystemError) {
    self.machine = machine
    self.path = path
    quit = try WakeEvent()
    listener = try Self.listen(at: path)
  }

  /// Starts to serve. Call it once.
  public func start() throws(SystemError) {
    var reply = ControlReply()
    reply.vmState = Data([1])
    JSONLineClient.rehearse(
      sending: reply, receiving: ControlRequest.self,
      like: #"{"verb":"load-state","vm_state":"AQ==","timeout_ms":1}"#)
    try threads.start(count: Self.clientThreadCount, name: "control") { [self] _ in
      while let socket = accept() { serve(socket) }
    }
  }

  /// Takes the socket's name away, when the process ends.
  public func removeSocket() { _ = unsafe unlink(path) }

  private func accept() -> OwnedDescriptor? {
    while true {
      let number = unsafe accept4(
        listener.rawValue, .init(__sockaddr__: nil), nil, Int32(SOCK_CLOEXEC.rawValue))
      if number >= 0 { return OwnedDescriptor(adopting: number) }
      switch Errno.current.rawValue {
      // The peer has given up again, or a signal came.
      case ECONNABORTED, EINTR: continue
      // EMFILE and the like: this thread serves no more, and says so; the others may.
      default:
        StandardError.print("control socket: accept: \(Errno.current)")
        return nil
      }
    }
  }

  private func serve(_ socket: consuming OwnedDescriptor) {
    guard let stream = try? LocalStream(adopting: socket, path: "client of \(path)") else { return }
    let client = JSONLineClient(stream: stream)
    while true {
      var reply: ControlReply
      var mustQuit = false
      do throws(JSONLineError) {
        let request = try client.receive(ControlRequest.self, deadline: Self.noDeadline)
        reply = answer(request)
        mustQuit = request.verb == "quit"
      } catch {
        guard case .notUnderstood(_, let excerpt) = error else { return }
        reply = ControlReply(failing: .badRequest, "not a request: \(excerpt)")
      }
      let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.sendNanoseconds)
      // A client that does not take its answer has left; the verb was carried out all the same.
      let isSent = (try? client.send(reply, deadline: deadline)) != nil
      if mustQuit { quit.signal() }
      guard isSent else { return }
    }
  }

  /// Carries out one request.
  public func answer(_ request: ControlRequest) -> ControlReply {
    do throws(ControlFailure) {
      return try machine.perform(request)
    } catch {
      var reply = ControlReply(failing: error.code, error.description)
      reply.state = machine.activity.rawValue
      reply.waitingVcpus = error.waitingVcpus
      return reply
    }
  }

  private static func listen(at path: String) throws(SystemError) -> OwnedDescriptor {
    let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    let number = socket(AF_UNIX, type, 0)
    guard number >= 0 else { throw SystemError("socket", path) }
    let descriptor = OwnedDescriptor(adopting: number)
    // The mode of the socket's inode is what bind gives the path: no moment with another one.
    guard fchmod(number, 0o600) == 0 else { throw SystemError("fchmod", path) }
    var address = sockaddr_un()
    let length = unsafe clinux_unix_address(path, &address)
    guard length >= 0 else { throw SystemError("bind", path) }
    // unsafe: the address is a local variable of the length that was just filled in.
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(number, .init(__sockaddr__: $0), socklen_t(length))
      }
    }
    guard result == 0 else { throw SystemError("bind", path) }
    guard Glibc.listen(number, Self.backlog) == 0 else { throw SystemError("listen", path) }
    return descriptor
  }
}

/// Lines for a person, unbuffered.
public enum StandardError {
  /// Writes one line.
  public static func print(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // unsafe: the array's own length. Nobody is left to tell when standard error is closed.
    _ = unsafe write(STDERR_FILENO, bytes, bytes.count)
  }
}

/// Lines for whoever started the process.
public enum Terminal {
  /// Writes one line to standard output, unbuffered: the reader may wait for it.
  public static func printLine(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // unsafe: the array's own length. A reader that is gone does not matter to the guest.
    _ = unsafe write(STDOUT_FILENO, bytes, bytes.count)
  }

  /// This process.
  public static var processID: Int32 { getpid() }
}
