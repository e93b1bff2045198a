import Glibc
import GuestKit
package import LinkFaultKit
import Pages
import Reporting
import System
import Testing
import Uring

/// How a migration is done.
package struct Plan: Sendable {
  /// How the source's memory is named to page-server.
  package enum Memory: Sendable { case file, process, ranges }
  package enum Link: Sendable { case unix, loopback, loopback6 }
  /// What protects a link that is no UNIX socket.
  package enum Security: Sendable { case tls, insecure }

  package var mode = "post-copy"
  package var memory = Memory.file
  package var link = Link.unix
  package var security: Security
  package var dialect = "1.12"
  package var prefetch = "bubbling"
  package var bulkConnections = 1
  /// Whether a relay that can make the link fail stands between the two sides.
  package var hasRelay = false
  /// Whether pages are packed: never unless said otherwise, since the guest's pack to next to
  /// nothing, and a link that is held down to keep pages missing would carry them all.
  package var compression = "none"
  /// More options of `page-server send` and of `postcopyd receive`.
  package var serverOptions: [String] = []
  package var receiverOptions: [String] = []
  /// How much the guest has done before it is moved.
  package var operationsBefore: UInt64 = 100

  /// With a relay in the clear unless said otherwise: it tells links apart by their first frame.
  package init(
    mode: String = "post-copy", memory: Memory = .file, link: Link = .unix,
    security: Security? = nil, dialect: String = "1.12", prefetch: String = "bubbling",
    bulkConnections: Int = 1, hasRelay: Bool = false, serverOptions: [String] = [],
    receiverOptions: [String] = []
  ) {
    self.mode = mode
    self.memory = memory
    self.link = link
    self.security = security ?? (hasRelay ? .insecure : .tls)
    self.dialect = dialect
    self.prefetch = prefetch
    self.bulkConnections = bulkConnections
    self.hasRelay = hasRelay
    self.serverOptions = serverOptions
    self.receiverOptions = receiverOptions
  }
}

/// One VM that moves: two microvms, page-server, postcopyd, and the directory of all they need.
package final class Migration {
  package static let vmName = "e2e"

  package let workspace: Workspace
  package let shape: GuestShape
  package var plan: Plan
  package let source: TestVM
  package var destination: TestVM?
  package var server: Engine?
  package var receiver: Engine?
  package var relay: RelayProcess?
  /// What "source" or "destination" is told about TLS instead of what the plan says.
  package var securityOptions: [String: [String]] = [:]
  /// The source's frozen memory, saved by `saveFrozenImage` because its VM will not be there.
  private var frozenImage: ImageFile?
  /// How much of the guest's work shows that it lives; an idle guest does less.
  package var progressOperations: UInt64 = 300
  /// The sessions whose reports have been seen.
  private var seenSessions: [String] {
    [server, receiver].compactMap { $0?.session }
  }
  private var address = ""
  /// Where the destination dials: the relay, when there is one.
  package private(set) var dialAddress = ""
  /// What comes before a command, by its name: another user, a cgroup.
  package var prefixes: [String: [String]] = [:]
  package var sourceStateDirectory: String
  package var destinationStateDirectory: String

  /// Starts the source's VM and waits until its guest works.
  package convenience init(_ shape: GuestShape = GuestShape(), _ plan: Plan = Plan()) throws {
    let workspace = try Workspace()
    let source = try TestVM("source", shape, in: workspace)
    try source.waitUntilReady()
    try self.init(source, shape, plan, workspace)
  }

  /// Moves a VM that has come from somewhere else.
  package convenience init(
    adopting source: TestVM, shape: GuestShape, _ plan: Plan = Plan()
  ) throws {
    try self.init(source, shape, plan, Workspace())
  }

  private init(
    _ source: TestVM, _ shape: GuestShape, _ plan: Plan, _ workspace: Workspace
  ) throws {
    self.source = source
    self.shape = shape
    self.plan = plan
    self.workspace = workspace
    sourceStateDirectory = workspace.file("source-state")
    destinationStateDirectory = workspace.file("destination-state")
    let token = try Program(
      "postcopyctl", [Binaries.path("postcopyctl"), "token", workspace.file("token")])
    try #require(try token.end() == .exited(code: 0))
    if plan.security == .tls, plan.link != .unix {
      let certificates = try Program(
        "postcopyctl",
        [Binaries.path("postcopyctl"), "certificates", workspace.file("certificates")])
      try #require(try certificates.end() == .exited(code: 0))
    }
    try source.waitForProgress(operations: plan.operationsBefore)
    address = try Self.address(of: plan.link, named: "link", in: workspace)
    dialAddress = address
    if plan.hasRelay {
      dialAddress = try Self.address(of: plan.link, named: "relay", in: workspace)
      relay = try RelayProcess(listen: dialAddress, connect: address, in: workspace)
    }
  }

  /// What a side is told about TLS: nothing where there is none to be had.
  private func security(_ side: String) -> [String] {
    if let options = securityOptions[side] { return options }
    return securityOptions(of: side)
  }

  private func securityOptions(of side: String) -> [String] {
    switch plan.security {
    case .tls where plan.link == .unix: []
    case .tls: ["--tls", workspace.file("certificates/\(side)")]
    case .insecure: ["--insecure"]
    }
  }

  package var attachPath: String { workspace.file("attach.sock") }

  /// Where the source listens.
  package var listenAddress: String { address }

  /// Has the two sides talk from one network namespace to another.
  package func join(over namespaces: NamespacePair) {
    address = namespaces.sourceAddress
    dialAddress = address
    prefixes["page-server"] = namespaces.sourcePrefix
    prefixes["postcopyd"] = namespaces.destinationPrefix
  }

  /// Keeps a copy of the source's memory, which is frozen, for the comparison at the end.
  package func saveFrozenImage() throws {
    var request = ControlRequest("dump")
    request.path = workspace.file("frozen-image")
    let reply = try source.call(request)
    guard reply.ok else { throw HarnessError(description: "dump: \(reply.error ?? "?")") }
    frozenImage = try ImageFile(path: workspace.file("frozen-image"))
  }

  /// Starts page-server and waits until it listens.
  @discardableResult
  package func startServer(waits: Bool = true) throws -> Engine {
    var arguments = try ["send", "--vm", Self.vmName, "--memory", memoryOption]
    arguments += ["--vmm", "microvm:\(source.socket)", "--listen", address, "--mode", plan.mode]
    arguments += ["--token-file", workspace.file("token")] + security("source")
    arguments += ["--state-dir", sourceStateDirectory, "--prefetch", plan.prefetch]
    arguments += ["--bulk-connections", "\(plan.bulkConnections)"]
    arguments += ["--compression", plan.compression] + plan.serverOptions
    let server = try Engine("page-server", arguments, prefix: prefixes["page-server"] ?? [])
    self.server = server
    if waits { try server.waitFor("waiting for the destination") }
    return server
  }

  /// Starts postcopyd and waits until a VMM may attach.
  @discardableResult
  package func startReceiver(
    waits: Bool = true, token: String? = nil, connectSeconds: Int = 60, vm: String = vmName
  ) throws -> Engine {
    var arguments = ["receive", "--vm", vm, "--from", dialAddress, "--attach", attachPath]
    arguments += ["--vmm", "microvm:\(workspace.file("destination.sock"))"]
    arguments += security("destination") + plan.receiverOptions
    arguments += ["--token-file", token ?? workspace.file("token")]
    arguments += ["--state-dir", destinationStateDirectory]
    arguments += ["--connect-timeout", "\(connectSeconds)"]
    let receiver = try Engine("postcopyd", arguments, prefix: prefixes["postcopyd"] ?? [])
    self.receiver = receiver
    if waits { try receiver.waitFor("waiting for the VMM") }
    return receiver
  }

  /// Starts the empty VM, which attaches to postcopyd. One that was killed has left its socket.
  @discardableResult
  package func startDestination(_ shape: GuestShape? = nil) throws -> TestVM {
    _ = unsafe unlink(workspace.file("destination.sock"))
    let destination = try TestVM(
      "destination", shape ?? self.shape, in: workspace, prefix: prefixes["microvm"] ?? [],
      incoming: ["--attach", attachPath, "--attach-dialect", plan.dialect])
    try destination.waitUntilReady()
    self.destination = destination
    return destination
  }

  /// All of it, the source last: so each step is over before the next begins.
  package func start() throws {
    try startReceiver()
    try startDestination()
    try startServer()
  }

  /// Both engines complete; the guest runs at the destination alone, and all of its memory is what
  /// it was or what the guest made of it since.
  package func expectCompletion(isTakenUp: Bool = false) throws {
    let server = try #require(server)
    let receiver = try #require(receiver)
    let received = try receiver.expectEnd("completed", exitCode: 0, destination: Phrase.runs)
    let sent = try server.expectEnd("completed", exitCode: 0, destination: Phrase.runs)
    // A page-server that took the session up later has not seen the VM stand still.
    #expect(isTakenUp || sent.report?.downtime != nil)
    #expect(received.report?.faults != nil)
    #expect(received.report?.guest?.mismatches ?? 0 == 0)
    try expectMoved()
    try expectNothingLeft()
  }

  /// The guest runs at the destination alone, with all of its memory.
  package func expectMoved() throws {
    let destination = try #require(destination)
    if frozenImage == nil { #expect(try source.status.state == "disabled") }
    try destination.waitForProgress(operations: progressOperations)
    try destination.must("pause")
    #expect(try destination.must("verify").findingCount == 0)
    let frozen: any ImageReading = try frozenImage ?? ProcessImage(status: source.status)
    let comparison = try ImageComparison(
      source: frozen, destination: ProcessImage(status: destination.status))
    #expect(comparison.findings.sentences == [])
    #expect(comparison.unchangedPages + comparison.rewrittenPages + comparison.removedPages > 0)
    // A guest that has finished its work cannot be resumed.
    guard progressOperations > 0 else { return }
    try destination.must("resume")
    try destination.waitForProgress(operations: min(50, progressOperations))
  }

  /// Ends the VMs and sees that nothing is left of the migration: no process, no descriptor in a
  /// VMM, no session in the run directory, no shared memory, no socket.
  package func expectNothingLeft() throws {
    if !source.program.hasEnded { try source.expectNoMoreDescriptors() }
    for engine in [server, receiver] { #expect(engine?.program.hasEnded ?? true) }
    #expect(sessionDirectories == [])
    if let destination {
      if destination.program.hasEnded {
        // Killed: what it would have removed itself is ours to remove.
        _ = unsafe unlink(destination.socket)
        if let file = destination.memoryFile { _ = unsafe unlink(file) }
      } else {
        try destination.quit()
      }
    }
    relay?.end()
    if source.program.hasEnded {
      _ = unsafe unlink(source.socket)
      if let file = source.memoryFile { _ = unsafe unlink(file) }
    } else {
      try source.quit()
    }
    let own = workspace.path.split(separator: "/").last!
    #expect(Workspace.names(in: "/dev/shm").filter { $0.hasPrefix(own) } == [])
    #expect(Workspace.names(in: "/dev/hugepages").filter { $0.hasPrefix(own) } == [])
    #expect(Workspace.names(in: workspace.path).filter { $0.hasSuffix(".sock") } == [])
  }

  /// Nothing came of it: the source's VM lives, and nothing is left.
  package func expectSourceRunsOn() throws {
    try source.expectRunsAndVerifies()
    try expectNothingLeft()
  }

  /// How page-server is told where the source's memory is.
  package var memoryOption: String {
    get throws {
      let status = try source.status
      switch plan.memory {
      case .file: return "file:\(status.memoryPath ?? "")"
      case .process: return "pid:\(source.program.pid)"
      case .ranges:
        let ranges = (status.regions ?? []).map { region in
          String(region.hostAddress, radix: 16) + "-"
            + String(region.hostAddress + region.size, radix: 16)
        }
        return "pid:\(source.program.pid):" + ranges.joined(separator: ",")
      }
    }
  }

  /// Removes what a parked session keeps in the run directory.
  package func forgetSession() {
    for path in sessionDirectories { Workspace.remove(path) }
  }

  /// What our sessions have in the run directories.
  private var sessionDirectories: [String] {
    ["/run/postcopy", "/dev/shm/postcopy"].flatMap { place in
      seenSessions.map { "\(place)/\($0)" }
    }.filter { unsafe access($0, F_OK) == 0 }
  }

  private static func address(
    of link: Plan.Link, named name: String, in workspace: Workspace
  ) throws -> String {
    switch link {
    case .unix: "unix:\(workspace.file("\(name).sock"))"
    case .loopback: try freeAddress("127.0.0.1")
    case .loopback6: try freeAddress("[::1]")
    }
  }

  /// An address that nobody uses now. Its port is below those that the kernel gives to outgoing
  /// connections: one of these could take it before page-server does, and a dial to such a port can
  /// even connect to itself.
  private static func freeAddress(_ host: String) throws -> String {
    for _ in 0..<20 {
      let random = try RandomBytes.make(2)
      let port = 15_000 + (Int(random[0]) << 8 + Int(random[1])) % 15_000
      let address = "\(host):\(port)"
      if (try? Listener(Endpoint(parsing: address))) != nil { return address }
    }
    throw HarnessError(description: "no free port on \(host)")
  }
}
