import ArgumentParser
import CommandOptions
import Migration
import PageServer
import Prefetch
import Reporting
import Session
import System
import Uring
import Wire

/// `page-server send`: moves one VM away, in the foreground.
struct SendCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "send",
    abstract: "Move one VM to the destination that dials in.",
    discussion: """
      Example:
        page-server send --vm web --memory file:/dev/shm/web --vmm microvm:/run/web.sock \\
          --listen 10.0.0.1:7000 --tls certificates/source --token-file web.token

      Exit codes: 0 completed · 10 refused, nothing was changed · 11 aborted, the VM runs on here \
      · 12 parked, everything is kept · 64 wrong usage · 70 a bug of ours.
      The first SIGINT or SIGTERM before the hand-over aborts; after it, the first is refused with \
      what remains, the second parks. SIGHUP ends nothing.
      """)

  /// What is pushed beside the pages that are asked for.
  enum Push: String, ExpressibleByArgument, CaseIterable {
    case bubbling
    case linear
    case none
  }

  /// When the VM is switched over.
  enum Mode: String, ExpressibleByArgument, CaseIterable {
    case postCopy = "post-copy"
    case hybrid
    case preCopy = "pre-copy"
    case quick

    var migrationMode: MigrationMode {
      switch self {
      case .postCopy: .postCopy
      case .hybrid: .hybrid
      case .preCopy: .preCopy
      case .quick: .quick
      }
    }
  }

  /// How pages are packed.
  enum Compression: String, ExpressibleByArgument, CaseIterable {
    case auto
    case none
    case lz4
    case zstd
  }

  @OptionGroup var common: CommonOptions

  @Flag(
    help: ArgumentHelp(
      "Only look whether it can be done, together with postcopyd receive --check; move nothing.",
      discussion: """
        Prints what was looked at on this host, and what the destination came to. Exit code 0 when \
        nothing speaks against it on either side, else 10.
        """))
  var check = false

  @Option(
    help: ArgumentHelp(
      "Where the VM's memory is: file:PATH, pid:N[:RANGES], snapshot:PATH or export:PATH.",
      discussion: """
        file: a memory file that the VMM shares, such as /dev/shm/NAME or /proc/PID/fd/N. \
        pid: memory of a process, RANGES as in /proc/PID/maps. \
        snapshot: the memory of a VM that does not run. \
        export: what page-server export wrote; goes on with the session that it is of.
        """, valueName: "source"))
  var memory: String

  @Option(
    help: ArgumentHelp(
      "What runs the VM: microvm:SOCKET, or none for a snapshot.", valueName: "front end"))
  var vmm: String

  @Option(
    help: ArgumentHelp(
      "Where the destination dials: ADDRESS:PORT, [IPV6]:PORT or unix:PATH.",
      valueName: "address"))
  var listen: String

  @Option(
    help: """
      post-copy: switch at once, pages follow. hybrid: send memory in rounds while the VM runs \
      here, then switch, and what was written last follows. pre-copy: the same rounds, until what \
      is left can be sent while the VM stands still. quick: freeze, send everything, then run there.
      """)
  var mode = Mode.postCopy

  @OptionGroup var rounds: RoundOptions

  @Option(
    help: """
      What is pushed unasked: bubbling grows around the latest faults, linear goes through the \
      image, none pushes nothing, so the move ends when the VM has touched everything.
      """)
  var prefetch = Push.bubbling

  @Option(
    help: ArgumentHelp(
      "How pages are packed that the VM does not wait for: auto, none, lz4 or zstd.",
      discussion: """
        auto packs while the link is slower than packing, by what makes the most of it; lz4 and \
        zstd always pack, where that makes less of the pages. Pages that rounds send again go as \
        what has changed of them, unless with none.
        """))
  var compression = Compression.auto

  @Option(help: ArgumentHelp("Bulk connections for pushed pages, 1 to 16.", valueName: "count"))
  var bulkConnections = 1

  @Option(
    help: ArgumentHelp(
      "What is sent at most; pages that the VM waits for are never held back.",
      discussion: """
        In bytes a second, all bulk connections together, packed pages as packed; postcopyctl \
        bandwidth changes it. Default: no limit.
        """, valueName: "bytes per second"))
  var bandwidth: UInt64?

  @Option(
    help: ArgumentHelp(
      "How long the thread that answers demands looks for the next one before it sleeps, at most.",
      discussion: """
        0 to 10000; with 0 it always sleeps. It looks only while demands follow each other faster \
        than that and the host has a processor left over, and sleeps a fifth of the time. Default: \
        200, or 0 where a control group bounds processor time.
        """, valueName: "microseconds"))
  var busyPoll: UInt64?

  @Option(help: ArgumentHelp("Processor for the thread that answers demands.", valueName: "cpu"))
  var urgentCPU: Int?

  @Option(help: ArgumentHelp("Processor for the threads that push.", valueName: "cpu"))
  var bulkCPU: Int?

  /// A link whose round trip takes longer is better waited for asleep.
  private static let longestBusyPollMicroseconds: UInt64 = 10_000

  func validate() throws {
    guard (1...WireLimits.maximumBulkConnectionCount).contains(bulkConnections) else {
      throw ValidationError(
        "--bulk-connections must be 1 to \(WireLimits.maximumBulkConnectionCount)")
    }
    if let bandwidth, !SessionRequest.bandwidthLimits.contains(bandwidth) {
      throw ValidationError(
        "--bandwidth must be \(SessionRequest.bandwidthLimits.lowerBound) to "
          + "\(SessionRequest.bandwidthLimits.upperBound) bytes per second; leave it out for no "
          + "limit")
    }
    if let busyPoll, busyPoll > Self.longestBusyPollMicroseconds {
      throw ValidationError(
        "--busy-poll must be at most \(Self.longestBusyPollMicroseconds) microseconds")
    }
    if prefetch == .none, mode == .quick || mode == .preCopy {
      throw ValidationError(
        "--prefetch none pushes nothing, and in --mode \(mode.rawValue) the VM waits for what is "
          + "pushed")
    }
    _ = try common.vmName()
    try rounds.validate(with: mode)
    let source = try memorySource()
    _ = try common.frontEnd(vmm)
    if vmm == "none" {
      switch source {
      case .snapshot, .export: break
      case .file, .process:
        throw ValidationError(
          "--vmm none cannot stop a VM: it goes with --memory snapshot:PATH or export:PATH alone, "
            + "or the VM would run on both hosts")
      }
    }
    if case .export = source, vmm != "none" {
      throw ValidationError("--memory export:PATH is of a VM that no VMM runs: say --vmm none")
    }
    _ = try common.endpoint(listen, option: "--listen")
  }

  func run() throws {
    try run(verb: "send", arguments: Array(CommandLine.arguments.dropFirst(2)))
  }

  /// Begins a session, or goes on with one: `recover` is that verb. `arguments` are the options.
  func run(verb: String, arguments: [String]) throws {
    BugExit.install()
    // Before any thread: they inherit what is blocked.
    let signals = try SignalSource()
    if check { throw try lookOnly(signals) }
    guard let context = try common.workerContext(arguments) else {
      throw try ParentProcess(
        options: common, side: .source, verb: verb, arguments: arguments
      ).run(signals: signals)
    }
    throw try work(context, signals: signals, isRecovering: verb == RecoverVerb.name)
  }

  /// The worker's part: the session.
  private func work(
    _ context: WorkerContext, signals: borrowing SignalSource, isRecovering: Bool
  ) throws -> ExitCode {
    // Before the process is hardened, which lets it start no other one.
    let keeperStart = Result { isRecovering ? nil : try startThrottleKeeper() }
    // Before any thread: they inherit what they may do.
    let findings = common.harden()
    let console = common.console(for: context)
    for finding in findings { console.log(.debug, "\(finding)") }
    defer { Self.end(try? keeperStart.get(), console) }
    let desk = try SessionDesk.atStart(vmName: try common.vmName(), side: .source)
    let reporter = SendReporter(
      vmName: common.vm, mode: mode.rawValue, console: console)
    let observer = { (note: SourceNote) in
      reporter.note(note)
      Self.keep(desk, at: note)
      if case .progress = note { desk.update { $0.nanosecondsLeft = reporter.nanosecondsLeft } }
    }
    do {
      reporter.trace = try common.migrationTrace(
        process: "page-server", isContinued: isRecovering, console: console)
      var configuration = try configuration(console)
      configuration.throttleKeeper = try keeperStart.get()
      let saved = isRecovering ? try common.savedSession(.source) : nil
      let session =
        isRecovering
        ? try SourceSession(recovering: configuration, observer: observer)
        : try SourceSession(configuration, observer: observer)
      desk.update { $0.bytesPerSecondLimit = bandwidth }
      desk.pass(to: session.orderAddress)
      try common.begin(context, desk, side: .source, recovered: saved)
      let result = try session.run(signals: signals)
      reporter.finish(result)
      desk.end(result.outcome)
      let ending = result.outcome.ending
      // The session still holds the VM's lock.
      withExtendedLifetime(session) {
        context.end(exitCode: ending.exitCode, isOver: ending != .parked)
      }
      return ExitCode(ending.exitCode)
    } catch let refusal as Refusal {
      let exitCode = reporter.finish(refusal)
      context.end(exitCode: exitCode, isOver: false)
      return ExitCode(exitCode)
    } catch let error as SystemError {
      // The session's own loop met what no kernel does to a sound program.
      reporter.fail(error)
      return ExitCode(BugExit.code)
    }
  }

  /// `--check`.
  private func lookOnly(_ signals: borrowing SignalSource) throws -> ExitCode {
    let console = common.console()
    do {
      let check = SourceCheck(try configuration(console))
      let findings = check.findings()
      common.show(findings, console)
      let end = try check.serve(signals: signals) { console.log(.notice, $0) }
      switch end {
      case .passed?:
        common.show([HostFinding("destination", .good, "it finds nothing against it")], console)
      case .refused(let refusal)?:
        common.show([HostFinding("destination", .missing, refusal.reason)], console)
        return ExitCode(Ending.refused.exitCode)
      case .stopped?, nil: return ExitCode(Ending.refused.exitCode)
      }
      return common.exitCode(of: findings)
    } catch let refusal as Refusal {
      common.show([HostFinding("options", .missing, refusal.reason)], console)
      return ExitCode(Ending.refused.exitCode)
    }
  }

  /// The process that keeps a control group's bound; nil where no control group is to be bound.
  private func startThrottleKeeper() throws -> ThrottleKeeperClient? {
    guard try rounds.throttleMeans(frontEnd: common.frontEnd(vmm)) == .cgroup else { return nil }
    do throws(SystemError) {
      return try ThrottleKeeperClient(
        arguments: [
          CommandLine.arguments.first ?? "page-server", ThrottleKeeperCommand.name,
          "--keeper-channel", "\(ChildProcess.passedDescriptorNumber)",
        ])
    } catch {
      throw Refusal(.unfit, "the process that keeps the control group's bound: \(error)")
    }
  }

  /// Behind everything else: what it could not do, somebody has to see to.
  private static func end(_ keeper: ThrottleKeeperClient?, _ console: Console) {
    do throws(ThrottleKeeperError) { try keeper?.end() } catch {
      console.log(.warning, "\(error); the next send or recover of this VM tries it again")
    }
  }

  private func configuration(_ console: Console) throws -> SourceConfiguration {
    let endpoint = try common.endpoint(listen, option: "--listen")
    var configuration = SourceConfiguration(
      vmName: try common.vmName(), memory: try memorySource(), frontEnd: try common.frontEnd(vmm),
      endpoint: endpoint, security: try common.security(of: [endpoint], console: console),
      token: try common.token(), directory: try common.directory())
    configuration.mode = mode.migrationMode
    rounds.apply(to: &configuration, mode)
    configuration.prefetch = PrefetchKind(rawValue: prefetch.rawValue)
    configuration.bulkConnectionCount = UInt8(bulkConnections)
    configuration.bulkBytesPerSecond = bandwidth
    configuration.packing = Packing(rawValue: compression.rawValue) ?? .automatic
    configuration.heartbeatBudgetNanoseconds = common.heartbeatBudgetNanoseconds
    configuration.limits.giveUpNanoseconds = common.giveUpNanoseconds
    if let busyPoll {
      configuration.busyPollNanoseconds = busyPoll * 1000
    } else if CgroupProcessorTime.isBounded {
      configuration.busyPollNanoseconds = 0
    }
    configuration.urgentPlacement.processor = urgentCPU
    configuration.bulkPlacement.processor = bulkCPU
    configuration.limits.handOverNanoseconds = handOverNanoseconds
    return configuration
  }

  /// How long the VM may stand still before it is handed over; nil for any time.
  private var handOverNanoseconds: UInt64? {
    let usual = SourceLimits().handOverNanoseconds
    return switch mode {
    // Everything is copied while the VM stands still: no limit would fit every image.
    case .quick: nil
    // Nor when all of it is looked at.
    case .preCopy where rounds.dirtyTracking == .content: nil
    case .hybrid where rounds.dirtyTracking == .content: nil
    case .preCopy: usual.map { $0 + rounds.downtimeNanoseconds }
    case .postCopy, .hybrid: usual
    }
  }

  private func memorySource() throws -> MemorySource {
    do throws(MemorySourceError) {
      return try MemorySource(parsing: memory)
    } catch { throw ValidationError("--memory: \(error)") }
  }
}

extension SendCommand {
  private static func status(of note: SeedRoundNote) -> RoundStatus {
    func whole(_ rate: Double?) -> UInt64? { rate.flatMap { UInt64(exactly: $0.rounded()) } }
    return RoundStatus(
      number: note.number, remainingByteCount: note.result.dirtiedByteCount,
      sentBytesPerSecond: whole(note.result.bandwidth),
      dirtyBytesPerSecond: whole(note.result.dirtyRate),
      predictedDowntimeNanoseconds: note.predictedDowntimeNanoseconds,
      throttlePercent: note.throttlePercent, throttleMeans: note.throttleMeans?.rawValue,
      tracking: note.tracking.rawValue, lookNanoseconds: note.result.lookNanoseconds,
      lookPauseNanoseconds: note.lookPauseNanoseconds > 0 ? note.lookPauseNanoseconds : nil)
  }

  /// What an operator sees at the control socket.
  private static func keep(_ desk: SessionDesk, at note: SourceNote) {
    switch note {
    case .state(let state), .recovered(let state): desk.update { $0.state = "\(state)" }
    case .joined, .restored: desk.update { $0.isLinked = true }
    case .left, .lost: desk.update { $0.isLinked = false }
    case .progress(let progress):
      desk.update { status in
        status.elapsedNanoseconds = progress.elapsedNanoseconds
        status.totalPageCount = progress.totalPageCount
        status.settledPageCount = min(
          progress.counts?.settledPageCount ?? 0, progress.totalPageCount)
      }
    case .bandwidthLimited(let bytesPerSecond):
      desk.update { $0.bytesPerSecondLimit = bytesPerSecond }
    case .seedRound(let note): desk.update { $0.round = status(of: note) }
    case .listening, .stranger, .refused, .stopRefused, .signalIgnored, .leftThrottle,
      .throttleProblem:
      break
    }
  }
}
