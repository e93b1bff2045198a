internal import GuestKit
internal import LinkFaultKit
internal import Pages
internal import Simulation
internal import System
internal import VMM

/// Something did not come about.
struct StageError: Error, CustomStringConvertible {
  let description: String
}

/// Two VMs, both engines, and the link between them.
final class Stage {
  private let binaries: String
  private let budgetMilliseconds: Int
  private let namespaces: NamespacePair?
  private let directory: String
  private var programs: [WatchedProgram] = []
  private var server: WatchedProgram?
  private var receiver: WatchedProgram?

  /// What starts or answers takes no tenth of it on this side of a hang.
  private static let limitNanoseconds: UInt64 = 60_000_000_000
  private static let vmName = "link-recovery"

  init(binaries: String, budgetMilliseconds: Int, namespaces: NamespacePair?) throws {
    self.binaries = binaries
    self.budgetMilliseconds = budgetMilliseconds
    self.namespaces = namespaces
    let tag = try RandomBytes.make(4).map { String($0, radix: 16) }.joined()
    directory = "/tmp/postcopy-link-\(tag)"
    try FileSystem.createDirectories(directory, permissions: 0o700)
  }

  private func file(_ name: String) -> String { "\(directory)/\(name)" }
  private func soon() -> Instant {
    MonotonicClock.now().advanced(byNanoseconds: Self.limitNanoseconds)
  }

  // MARK: Starting

  /// Has the VM moved; it runs at the destination with nothing pushed when this returns.
  func start() throws {
    let token = try launch("postcopyctl", ["token", file("token")])
    guard token.process.waitForEnd(until: soon()) == .exited(code: 0) else {
      throw StageError(description: "no token: \(token.transcript)")
    }
    // At this pace the guest needs new pages for minutes, and sees each outage within a moment.
    let shape = [
      "--memory", "512M", "--vcpus", "2", "--pattern", "rate-limited-write", "--rate", "200",
    ]
    let source = try launch("microvm", ["run", "--control", file("source.sock")] + shape)
    try expect("microvm: ready", of: source)
    var dialled = "unix:\(file("dial.sock"))"
    var served = "unix:\(file("serve.sock"))"
    if let namespaces {
      dialled = namespaces.sourceAddress
      served = dialled
    } else {
      let relay = try launch(
        "linkfault",
        [
          "run", "--listen", dialled, "--connect", served, "--control", file("relay.sock"),
          "--limit", "7200",
        ])
      try expect("listening", of: relay)
    }
    let common = [
      "--vm", Self.vmName, "--token-file", file("token"), "--insecure", "--json", "-v",
      "--heartbeat-budget", "\(budgetMilliseconds)",
    ]
    let receiver = try launch(
      "postcopyd",
      ["receive", "--from", dialled, "--attach", file("attach.sock")] + common + [
        "--vmm", "microvm:\(file("destination.sock"))", "--state-dir", file("destination-state"),
      ], in: namespaces?.destinationPrefix ?? [])
    try expect("waiting for the VMM", of: receiver)
    let destination = try launch(
      "microvm",
      [
        "run", "--incoming", "--control", file("destination.sock"), "--attach",
        file("attach.sock"),
      ] + shape)
    try expect("microvm: ready", of: destination)
    let server = try launch(
      "page-server",
      ["send", "--listen", served, "--prefetch", "none"] + common + [
        "--memory", "file:\(try status("source.sock").memoryPath ?? "")", "--vmm",
        "microvm:\(file("source.sock"))", "--state-dir", file("source-state"),
      ], in: namespaces?.sourcePrefix ?? [])
    try expect("state: serving", of: server)
    try expect("state: running", of: receiver)
    self.server = server
    self.receiver = receiver
    _ = try waitForOperation(beyond: try status("destination.sock").operations ?? 0)
  }

  private func launch(
    _ name: String, _ arguments: [String], in prefix: [String] = []
  ) throws -> WatchedProgram {
    let program = try WatchedProgram(prefix + ["\(binaries)/\(name)"] + arguments)
    programs.append(program)
    return program
  }

  private func expect(_ text: String, of program: WatchedProgram) throws {
    guard try program.line(until: soon(), where: { $0.contains(text) }) != nil else {
      throw StageError(description: "“\(text)” never came. Said was:\n\(program.transcript)")
    }
  }

  // MARK: One outage

  /// Loses the link without a word, waits until both sides know and the guest stands still, and
  /// gives it back a while later.
  func loseLink(outage seed: UInt64) throws -> Outage {
    guard let server, let receiver else { throw StageError(description: "nothing was started") }
    let serverStart = server.lineCount
    let receiverStart = receiver.lineCount
    let drop = MonotonicClock.now()
    try setLink(isLost: true)
    let lostAtSource = try stamp("link-lost", server, from: serverStart)
    let lostAtDestination = try stamp("link-lost", receiver, from: receiverStart)
    let operations = try waitForStandstill()
    // The dialler's attempts have a rhythm: each outage ends at another moment of it.
    var random = SeededRandom(seed: seed)
    try pause(nanoseconds: random.nanoseconds(in: 0..<500_000_000))
    let back = MonotonicClock.now()
    try setLink(isLost: false)
    let nextPage = try waitForOperation(beyond: operations)
    let restoredAtSource = try stamp("link-restored", server, from: serverStart)
    let restoredAtDestination = try stamp("link-restored", receiver, from: receiverStart)
    func milliseconds(_ moment: Instant, since start: Instant) -> Double {
      Double(moment.nanoseconds(since: start)) / 1e6
    }
    return Outage(
      lostAtSource: milliseconds(lostAtSource, since: drop),
      lostAtDestination: milliseconds(lostAtDestination, since: drop),
      restoredAtSource: milliseconds(restoredAtSource, since: back),
      restoredAtDestination: milliseconds(restoredAtDestination, since: back),
      nextPage: milliseconds(nextPage, since: back))
  }

  private func setLink(isLost: Bool) throws {
    if let namespaces {
      if isLost {
        try namespaces.drop(incoming: true, outgoing: true)
      } else {
        try namespaces.heal()
      }
      return
    }
    let reply = try JSONLineClient.connect(file("relay.sock"), deadline: soon())
      .call(
        FaultOrder(isLost ? .drop : .clear), replyingWith: RelayReply.self, deadline: soon())
    guard reply.ok else { throw StageError(description: reply.error ?? "the relay refuses") }
  }

  private func stamp(
    _ event: String, _ program: WatchedProgram, from start: Int
  ) throws -> Instant {
    let line = try program.line(from: start, until: soon()) {
      $0.contains("\"event\":\"\(event)\"")
    }
    guard let line else {
      throw StageError(description: "no \(event). Said was:\n\(program.transcript)")
    }
    return line.read
  }

  // MARK: The guest

  private func status(_ socket: String) throws -> ControlReply {
    try JSONLineClient.connect(file(socket), deadline: soon())
      .call(ControlRequest("status"), replyingWith: ControlReply.self, deadline: soon())
  }

  /// When the guest was first seen to have done more.
  private func waitForOperation(beyond count: UInt64) throws -> Instant {
    let deadline = soon()
    while MonotonicClock.now() < deadline {
      if let done = try status("destination.sock").operations, done > count {
        return MonotonicClock.now()
      }
      try pause(nanoseconds: 1_000_000)
    }
    throw StageError(description: "the guest does not go on after \(count) operations")
  }

  /// Waits until all vCPUs wait for pages, where each operation was due within 5 ms; the count.
  private func waitForStandstill() throws -> UInt64 {
    var last = try status("destination.sock").operations ?? 0
    var since = MonotonicClock.now()
    while MonotonicClock.now().nanoseconds(since: since) < 300_000_000 {
      try pause(nanoseconds: 5_000_000)
      let done = try status("destination.sock").operations ?? 0
      if done != last { since = MonotonicClock.now() }
      last = done
    }
    return last
  }

  /// Waits; nothing can come that would end it.
  private func pause(nanoseconds: UInt64) throws {
    _ = try Readiness.wait(
      for: [], until: MonotonicClock.now().advanced(byNanoseconds: nanoseconds))
  }

  // MARK: The end

  /// Ends everything. The VM is given up: it was made for this.
  func end() {
    for engine in [receiver, server].compactMap({ $0 }) { park(engine) }
    for program in programs.reversed() {
      // One that has ended is as good as killed.
      try? program.process.handle.kill()
      _ = program.process.waitForEnd(until: soon())
    }
    var left = [directory]
    for engine in [receiver, server].compactMap({ $0 }) {
      let report = try? engine.line(until: soon()) { $0.contains("\"event\":\"finished\"") }
      guard let words = report?.text.split(separator: "\""),
        let name = words.firstIndex(of: "session"), name + 2 < words.count
      else { continue }
      left += ["/run/postcopy/\(words[name + 2])", "/dev/shm/postcopy/\(words[name + 2])"]
    }
    let removal = try? WatchedProgram(["rm", "-rf"] + left)
    _ = removal?.process.waitForEnd(until: soon())
    programs.removeAll()
  }

  /// The first SIGTERM after the hand-over is refused, the second parks: so it tells its session,
  /// whose leavings are ours to remove.
  private func park(_ engine: WatchedProgram) {
    let start = engine.lineCount
    try? engine.process.send(signal: SessionSignal.terminate.rawValue)
    _ = try? engine.line(from: start, until: soon()) { $0.contains("again") }
    try? engine.process.send(signal: SessionSignal.terminate.rawValue)
    _ = engine.process.waitForEnd(until: soon())
  }
}
