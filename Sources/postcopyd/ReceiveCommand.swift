import ArgumentParser
import CommandOptions
import FaultHandler
import Migration
import Reporting
import Session
import System
import Uring
import Wire

/// `postcopyd receive`: brings one VM here, in the foreground.
struct ReceiveCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "receive",
    abstract: "Bring one VM here from the source that listens.",
    discussion: """
      Example:
        postcopyd receive --vm web --from 10.0.0.1:7000 --attach /run/web-attach.sock \\
          --vmm microvm:/run/web.sock --tls certificates/target --token-file web.token

      Start it before the VMM: the VMM connects to the attach socket and hands its userfaultfd \
      over, as Firecracker does. An aborted migration ends that VMM: its memory is never used again.

      Exit codes: 0 completed · 10 refused, nothing was changed · 11 aborted, the VM runs on at \
      the source · 12 parked, everything is kept · 64 wrong usage · 70 a bug of ours.
      The first SIGINT or SIGTERM before the hand-over aborts; after it, the first is refused with \
      what remains, the second parks. SIGHUP ends nothing.
      """)

  @OptionGroup var common: CommonOptions

  @Flag(
    help: ArgumentHelp(
      "Only look whether it can be done, together with page-server send --check; move nothing.",
      discussion: """
        Needs no VMM yet. Prints what was looked at on this host, how the link is, and tells the \
        source what it came to. Exit code 0 when nothing speaks against it, else 10.
        """))
  var check = false

  @Flag(
    help: ArgumentHelp(
      "Take the VM although this host's processors lack something that the source's have.",
      discussion: "Only for a VM whose processor model leaves that out."))
  var allowFewerFeatures = false

  @Option(
    help: ArgumentHelp(
      "How much of this host's memory is to stay free beside all that the VM may need.",
      valueName: "MiB"))
  var memoryHeadroom: UInt64 = Preflight.usualHeadroomByteCount >> 20

  @Option(
    help: ArgumentHelp(
      "Where the source listens: ADDRESS:PORT or unix:PATH; several, separated by commas.",
      valueName: "addresses"))
  var from: String

  @Option(
    help: ArgumentHelp(
      "Socket on which the VMM hands its userfaultfd over.", valueName: "socket"))
  var attach: String

  @Option(
    help: ArgumentHelp(
      "What runs the VM: microvm:SOCKET, or none when somebody else starts it.",
      valueName: "front end"))
  var vmm: String

  @Option(
    help: ArgumentHelp(
      "How long the source may take to answer at first, once the VMM has attached.",
      valueName: "seconds"))
  var connectTimeout: UInt64 = 60

  @Option(
    help: ArgumentHelp(
      "Have the VMM pause the guest when the link has been lost for so long.",
      discussion: """
        It runs on when the link is back. Best effort: nothing waits for it. Default: never; the \
        guest runs on with the pages that it has, and waits for each that it lacks.
        """, valueName: "seconds"))
  var pauseAfter: UInt64?

  @Option(help: ArgumentHelp("Processor for the thread that resolves faults.", valueName: "cpu"))
  var faultCPU: Int?

  @Option(
    help: ArgumentHelp("Processor for the threads that install pushes.", valueName: "cpu"))
  var bulkCPU: Int?

  func validate() throws {
    guard (1...86_400).contains(connectTimeout) else {
      throw ValidationError("--connect-timeout must be 1 to 86400 seconds")
    }
    guard !attach.isEmpty, attach.utf8.count <= Endpoint.maximumPathByteCount else {
      throw ValidationError(
        "--attach must be a path of 1 to \(Endpoint.maximumPathByteCount) bytes")
    }
    guard memoryHeadroom <= 1 << 30 else {
      throw ValidationError("--memory-headroom must be at most \(1 << 30) MiB")
    }
    try validatePause()
    _ = try common.vmName()
    _ = try common.frontEnd(vmm)
    _ = try sources()
  }

  private func validatePause() throws {
    guard let pauseAfter else { return }
    guard pauseAfter <= 86_400 else {
      throw ValidationError("--pause-after must be 0 to 86400 seconds; leave it out for never")
    }
    guard vmm != "none" else {
      throw ValidationError("--pause-after needs a VMM that can be asked: not --vmm none")
    }
    if let giveUp = common.giveUpAfter, giveUp <= pauseAfter {
      throw ValidationError(
        "--pause-after \(pauseAfter) comes too late: this side parks at --give-up-after \(giveUp)")
    }
  }

  func run() throws {
    try run(verb: "receive", arguments: Array(CommandLine.arguments.dropFirst(2)))
  }

  /// Begins a session, or goes on with one: `recover` is that verb. `arguments` are the options.
  func run(verb: String, arguments: [String]) throws {
    BugExit.install()
    // Before any thread: they inherit what is blocked.
    let signals = try SignalSource()
    if check { throw try lookOnly(signals) }
    guard let context = try common.workerContext(arguments) else {
      throw try ParentProcess(
        options: common, side: .destination, verb: verb, arguments: arguments
      ).run(signals: signals)
    }
    throw try work(context, signals: signals, isRecovering: verb == RecoverVerb.name)
  }

  /// The worker's part: the session.
  private func work(
    _ context: WorkerContext, signals: borrowing SignalSource, isRecovering: Bool
  ) throws -> ExitCode {
    // Before any thread: they inherit what they may do.
    let findings = common.harden()
    let console = common.console(for: context)
    for finding in findings { console.log(.debug, "\(finding)") }
    let desk = try SessionDesk.atStart(vmName: try common.vmName(), side: .destination)
    let reporter = ReceiveReporter(vmName: common.vm, console: console)
    let observer = { (note: DestinationNote) in
      reporter.note(note)
      Self.keep(desk, at: note)
      if case .progress = note { desk.update { $0.nanosecondsLeft = reporter.nanosecondsLeft } }
    }
    do {
      reporter.trace = try common.migrationTrace(
        process: "postcopyd", isContinued: isRecovering, console: console)
      let saved = isRecovering ? try common.savedSession(.destination) : nil
      let session =
        isRecovering
        ? try DestinationSession(
          recovering: try configuration(console, keeper: context.keeper),
          userfault: context.keptUserfault(of: saved), observer: observer)
        : try DestinationSession(
          try configuration(console, keeper: context.keeper), observer: observer)
      desk.pass(to: session.orderAddress)
      try common.begin(context, desk, side: .destination, recovered: saved)
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

  /// `--check`: on a thread of its own, so that a signal ends it.
  private func lookOnly(_ signals: borrowing SignalSource) throws -> ExitCode {
    let console = common.console()
    do {
      let check = DestinationCheck(try configuration(console, keeper: nil))
      let cancel = try WakeEvent()
      let results = try Mailbox<[HostFinding]>(capacity: 1)
      let worker = try SerialWorker(name: "check", capacity: 1)
      defer {
        cancel.signal()
        worker.stop()
      }
      _ = worker.run {
        _ = results.post(check.run(cancel: cancel) { console.log(.notice, $0) } ?? [])
      }
      while true {
        let ready = try Readiness.wait(
          for: [results.readiness.rawValue, signals.descriptor.rawValue], until: nil)
        if let findings = results.take() {
          common.show(findings, console)
          return common.exitCode(of: findings)
        }
        if ready[1], let signal = try signals.next(), signal != .hangUp {
          return ExitCode(Ending.refused.exitCode)
        }
      }
    } catch let refusal as Refusal {
      common.show([HostFinding("options", .missing, refusal.reason)], console)
      return ExitCode(Ending.refused.exitCode)
    }
  }

  private func configuration(
    _ console: Console, keeper: KeeperClient?
  ) throws -> DestinationConfiguration {
    let sources = try sources()
    var configuration = DestinationConfiguration(
      vmName: try common.vmName(), attachPath: attach, frontEnd: try common.frontEnd(vmm),
      sources: sources, security: try common.security(of: sources, console: console),
      token: try common.token(), directory: try common.directory())
    configuration.keeper = keeper
    configuration.mayLackFeatures = allowFewerFeatures
    configuration.headroomByteCount = memoryHeadroom << 20
    configuration.connectNanoseconds = connectTimeout * 1_000_000_000
    configuration.heartbeatBudgetNanoseconds = common.heartbeatBudgetNanoseconds
    configuration.limits.giveUpNanoseconds = common.giveUpNanoseconds
    configuration.pauseAfterNanoseconds = pauseAfter.map { $0 * 1_000_000_000 }
    configuration.faultPlacement.processor = faultCPU
    configuration.bulkPlacement.processor = bulkCPU
    return configuration
  }

  private func sources() throws -> [Endpoint] {
    try from.split(separator: ",", omittingEmptySubsequences: false).map { text in
      try common.endpoint(String(text), option: "--from")
    }
  }
}

extension ReceiveCommand {
  /// What an operator sees at the control socket.
  private static func keep(_ desk: SessionDesk, at note: DestinationNote) {
    switch note {
    case .state(let state), .recovered(let state): desk.update { $0.state = "\(state)" }
    case .joined, .restored: desk.update { $0.isLinked = true }
    case .lost: desk.update { $0.isLinked = false }
    case .progress(let progress):
      desk.update { status in
        status.elapsedNanoseconds = progress.elapsedNanoseconds
        status.totalPageCount = progress.totalPageCount
        status.settledPageCount = progress.statistics?.settledPageCount ?? 0
      }
    case .awaitingAttach, .attached, .seedsPlaced, .dialling, .warning, .stopRefused,
      .signalIgnored,
      .guestPaused, .guestResumed:
      break
    }
  }
}
