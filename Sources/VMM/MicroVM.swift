internal import FoundationEssentials
internal import Pages
internal import System

/// How long each verb may take before it counts as not answered.
public struct VMMTimeouts: Hashable, Sendable {
  /// How long the VMM itself waits for its vCPUs to stop.
  public var pauseMilliseconds: UInt64
  /// How long we wait beyond what the VMM was told, and for verbs that only change a state.
  public var answerMilliseconds: UInt64
  /// Saving state copies a few hundred kilobytes.
  public var saveMilliseconds: UInt64
  /// Loading reads guest memory, page by page over the network.
  public var loadMilliseconds: UInt64

  /// The usual ones: pause 1 s, an answer 3 s, save 10 s, load 60 s.
  public init(
    pauseMilliseconds: UInt64 = 1000, answerMilliseconds: UInt64 = 3000,
    saveMilliseconds: UInt64 = 10_000, loadMilliseconds: UInt64 = 60_000
  ) {
    self.pauseMilliseconds = pauseMilliseconds
    self.answerMilliseconds = answerMilliseconds
    self.saveMilliseconds = saveMilliseconds
    self.loadMilliseconds = loadMilliseconds
  }

  func milliseconds(for verb: VMMVerb) -> UInt64 {
    switch verb {
    case .pause, .disable: pauseMilliseconds + answerMilliseconds
    case .saveDeviceState: saveMilliseconds
    case .loadDeviceState: loadMilliseconds
    case .resume, .run, .kill, .status, .startDirtyLog, .fetchDirtyLog, .stopDirtyLog,
      .throttle:
      answerMilliseconds
    }
  }
}

/// Drives the test VMM over its control socket (Documentation/microvm.md).
///
/// Two connections: one for the verbs, one for `status`, so that progress can be asked for while a
/// long `loadDeviceState` waits for pages. A connection that failed is dropped, because its late
/// answer would be taken for the next one's; the next call connects anew.
public final class MicroVM: VMMFrontEnd, DirtyLog, ProcessorThrottle {
  /// The VM's name.
  public let vmName: String
  private let socketPath: String
  private let timeouts: VMMTimeouts
  private let verbClient: Lock<JSONLineClient?> = Lock(nil)
  private let statusClient: Lock<JSONLineClient?> = Lock(nil)
  private let process: Lock<ProcessIdentity?> = Lock(nil)

  /// The VM whose control socket is at `socketPath`. Connects with the first call.
  public init(vmName: String, socketPath: String, timeouts: VMMTimeouts = VMMTimeouts()) {
    self.vmName = vmName
    self.socketPath = socketPath
    self.timeouts = timeouts
  }

  /// Its pause has a limit, and what is under way can be taken back.
  public var pausesBesideFaults: Bool { true }

  /// A guest whose disk has a read under way is `pausing`.
  public var pauseDrainsBlockIO: Bool { true }

  /// KVM's log of the guest's writes, and what microvm changes itself.
  public var dirtyLog: (any DirtyLog)? { self }

  /// Begins to watch.
  public func startDirtyLog() throws(VMMError) {
    // An earlier process of ours may have begun and died: what that log holds means nothing.
    try stopDirtyLog()
    _ = try perform(.startDirtyLog, Request(.startDirtyLog))
  }

  /// What was written since the last time.
  public func fetchDirtyLog() throws(VMMError) -> [UInt8] {
    let reply = try perform(.fetchDirtyLog, Request(.fetchDirtyLog))
    guard let bitmap = reply.bitmap else {
      throw error(.fetchDirtyLog, .garbled("the answer has no bitmap"))
    }
    return Array(bitmap)
  }

  /// Watches no more.
  public func stopDirtyLog() throws(VMMError) {
    do throws(VMMError) {
      _ = try perform(.stopDirtyLog, Request(.stopDirtyLog))
    } catch {
      // It did not watch.
      guard case .refused = error.problem else { throw error }
    }
  }

  /// It takes the vCPUs' time itself.
  public var throttle: (any ProcessorThrottle)? { self }

  /// Has the vCPUs rest for a share of their time.
  public func throttle(percent: Int, forMilliseconds: UInt64) throws(VMMError) {
    _ = try perform(
      .throttle, Request(.throttle, timeoutMilliseconds: forMilliseconds, count: percent))
  }

  /// Connects, for verbs and for the status, and has spoken once.
  public func prepare() {
    JSONLineClient.rehearse(
      sending: Request(.loadDeviceState, timeoutMilliseconds: 1, state: Data([1]), count: 1),
      receiving: Reply.self, like: #"{"ok":true,"vm_state":"AQ==","pid":1,"mismatches":[]}"#)
    // One that is slow to answer now holds nobody up.
    let deadline = MonotonicClock.now().advanced(byNanoseconds: Self.prepareNanoseconds)
    for connection in [statusClient, verbClient] {
      let reply = try? perform(.status, Request(.status), over: connection, until: deadline)
      guard reply != nil else { return }
    }
  }

  private static let prepareNanoseconds: UInt64 = 500_000_000

  /// Stops the vCPUs and drains the disk; a vCPU that waits for a page makes it `pending`, and so
  /// does a disk that hangs.
  public func pause() throws(VMMError) {
    _ = try perform(.pause, Request(.pause, timeoutMilliseconds: timeouts.pauseMilliseconds))
  }

  /// Lets the vCPUs run on.
  public func resume() throws(VMMError) { _ = try perform(.resume, Request(.resume)) }

  /// The vCPUs' state.
  public func saveDeviceState() throws(VMMError) -> [UInt8] {
    let reply = try perform(.saveDeviceState, Request(.saveDeviceState))
    guard let state = reply.vm_state, !state.isEmpty else {
      throw error(.saveDeviceState, .garbled("the answer has no device state"))
    }
    return Array(state)
  }

  /// Loads the vCPUs' state.
  public func loadDeviceState(_ state: [UInt8]) throws(VMMError) {
    _ = try perform(.loadDeviceState, Request(.loadDeviceState, state: Data(state)))
  }

  /// Starts the vCPUs.
  public func run() throws(VMMError) { _ = try perform(.run, Request(.run)) }

  /// Ends the vCPU threads and refuses to run; the process and its memory stay.
  public func disable() throws(VMMError) {
    _ = try perform(.disable, Request(.disable, timeoutMilliseconds: timeouts.pauseMilliseconds))
  }

  /// Kills the process behind the control socket and waits for its end. Works on a VMM that does
  /// not answer any more, once it has told its process.
  public func kill() throws(VMMError) {
    let deadline = deadline(for: .kill)
    guard let identity = try processIdentity() else { return }
    do throws(SystemError) {
      let process = try ProcessHandle.open(pid: identity.pid)
      guard process.identity == identity else { return }
      try process.kill()
      guard process.waitUntilEnded(deadline: deadline) else {
        throw SystemError("poll", "\(identity) after SIGKILL", .timedOut)
      }
    } catch {
      if error.errno == .noSuchProcess { return }
      throw self.error(.kill, .failed("\(error)"))
    }
  }

  /// The process that was seen behind the socket, asked for when none was; nil when it has ended.
  private func processIdentity() throws(VMMError) -> ProcessIdentity? {
    if let known = process.withLock({ $0 }) { return known.isAlive ? known : nil }
    do throws(VMMError) {
      _ = try status()
    } catch {
      throw self.error(.kill, error.problem)
    }
    guard let known = process.withLock({ $0 }) else {
      throw error(.kill, .garbled("the VMM tells no process that exists"))
    }
    return known
  }

  /// The VM's state and its guest's progress.
  public func status() throws(VMMError) -> VMMStatus {
    let reply = try perform(.status, Request(.status))
    guard let text = reply.state, let state = VMMState(rawValue: text), state != .none else {
      throw error(.status, .garbled("unknown state \"\(reply.state ?? "")\""))
    }
    if let pid = reply.pid, let identity = try? ProcessIdentity.of(pid: pid) {
      process.withLock { $0 = $0 ?? identity }
    }
    return VMMStatus(
      state: state, pid: reply.pid, vcpuCount: reply.vcpus, operationCount: reply.operations,
      mismatchCount: reply.mismatches?.count ?? 0)
  }

  private func perform(_ verb: VMMVerb, _ request: Request) throws(VMMError) -> Reply {
    try perform(
      verb, request, over: verb == .status ? statusClient : verbClient, until: deadline(for: verb))
  }

  private func perform(
    _ verb: VMMVerb, _ request: Request, over connection: Lock<JSONLineClient?>,
    until deadline: Instant
  ) throws(VMMError) -> Reply {
    let path = socketPath
    let reply: Reply
    do throws(JSONLineError) {
      reply = try connection.withLock { client throws(JSONLineError) in
        let current: JSONLineClient
        if let client { current = client } else { current = try .connect(path, deadline: deadline) }
        // Only a connection on which question and answer are in step is kept.
        client = nil
        let reply = try current.call(request, replyingWith: Reply.self, deadline: deadline)
        client = current
        return reply
      }
    } catch {
      throw self.error(verb, Self.problem(of: error))
    }
    guard !reply.ok else { return reply }
    let text = reply.error ?? "no reason given"
    switch reply.code {
    case "bad-request", "bad-state": throw self.error(verb, .refused(text))
    case "timeout": throw self.error(verb, .pending(text))
    default: throw self.error(verb, .failed(text))
    }
  }

  private static func problem(of error: JSONLineError) -> VMMError.Problem {
    switch error {
    case .connection, .closed: .unreachable("\(error)")
    case .timedOut: .silent("\(error)")
    case .lineTooLong, .notUnderstood: .garbled("\(error)")
    }
  }

  private func deadline(for verb: VMMVerb) -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: timeouts.milliseconds(for: verb) * 1_000_000)
  }

  private func error(_ verb: VMMVerb, _ problem: VMMError.Problem) -> VMMError {
    VMMError(vmName: vmName, verb: verb, address: "microvm:\(socketPath)", problem: problem)
  }
}

/// A line to microvm. Keys that are nil are left out.
private struct Request: Encodable {
  let verb: String
  let timeout_ms: UInt64?
  let vm_state: Data?
  let count: Int?

  init(
    _ verb: VMMVerb, timeoutMilliseconds: UInt64? = nil, state: Data? = nil, count: Int? = nil
  ) {
    self.verb = verb.rawValue
    self.timeout_ms = timeoutMilliseconds
    self.count = count
    self.vm_state = state
  }
}

/// A line from microvm: the fields of all verbs that we read. Data is base64 on the line.
private struct Reply: Decodable {
  let ok: Bool
  let code: String?
  let error: String?
  let state: String?
  let vm_state: Data?
  let bitmap: Data?
  let pid: Int32?
  let vcpus: Int?
  let operations: UInt64?
  let mismatches: [Mismatch]?

  struct Mismatch: Decodable {}
}
