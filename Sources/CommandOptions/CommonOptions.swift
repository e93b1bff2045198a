public import ArgumentParser
public import Reporting
public import Session
internal import System
public import Uring
public import VMM
public import Wire

/// The options that `page-server send` and `postcopyd receive` share.
public struct CommonOptions: ParsableArguments {
  /// The VM's name.
  @Option(
    help: ArgumentHelp(
      "The VM's name, the same on both hosts.",
      discussion: "It names the VM in every message and binds the journal.", valueName: "name"))
  public var vm: String

  /// The file with the session's secret.
  @Option(
    help: ArgumentHelp(
      "File with the session's 32 random bytes, the same on both hosts.",
      discussion: "Make one with: postcopyctl token FILE", valueName: "file"))
  public var tokenFile: String

  /// Where the certificates are.
  @Option(
    help: ArgumentHelp(
      "Directory with ca.pem, certificate.pem and key.pem, for TLS 1.3 over TCP.",
      discussion: """
        Both sides show a certificate, and take one that their ca.pem has signed. Make them with: \
        postcopyctl certificates DIRECTORY --host NAME
        """, valueName: "directory"))
  public var tls: String?

  /// Whom the peer's certificate must be made out for.
  @Option(
    help: ArgumentHelp(
      "Take only a peer whose certificate is made out for this host name or address.",
      discussion: "Without it any certificate will do that ca.pem has signed.", valueName: "name"))
  public var tlsPeer: String?

  /// Whether TCP without TLS was asked for.
  @Flag(
    help: """
      Allow TCP without TLS: anyone on the network can read and change the guest's memory. Not \
      needed for unix: addresses.
      """)
  public var insecure = false

  /// Where journals are kept.
  @Option(
    help: ArgumentHelp(
      "Directory of the journals that make the hand-over safe.",
      discussion: "Default: /var/lib/postcopy for root, else under XDG_STATE_HOME.",
      valueName: "directory"))
  public var stateDir: String?

  /// How long the other side may be silent.
  @Option(
    help: ArgumentHelp(
      "How long nothing may be heard of the other side until the link counts as lost.",
      valueName: "milliseconds"))
  public var heartbeatBudget: UInt64 = 1000

  /// How long a lost link is waited for.
  @Option(
    help: ArgumentHelp(
      "How long a link that was lost after the hand-over is waited for; then this side parks.",
      discussion: "Default: for ever. Parked, everything is kept, and recover goes on from there.",
      valueName: "seconds"))
  public var giveUpAfter: UInt64?

  /// Machine-readable output.
  @Flag(help: "Print events and the report as JSON, one object a line, on standard output.")
  public var json = false

  /// Where the course of the session is written.
  @Option(
    help: ArgumentHelp(
      "Write what happens when to a file that ui.perfetto.dev opens.",
      discussion: """
        States, rounds, lost links, the hand-over's parts, rates. Each side has a file of its own; \
        recover goes on with it.
        """, valueName: "file"))
  public var trace: String?

  /// More detail.
  @Flag(name: .shortAndLong, help: "Say more of what happens.")
  public var verbose = false

  /// Only errors.
  @Flag(name: .shortAndLong, help: "Say nothing but errors; no progress line, no report.")
  public var quiet = false

  /// Whether any system call may be made.
  @Flag(
    help: ArgumentHelp(
      "Do not limit the system calls of this process.",
      discussion: "Only when one fails that should not: the kernel's audit log names it."))
  public var noSeccomp = false

  /// Set for the worker of a parent process: the descriptor of the channel between them.
  @Option(help: .hidden)
  public var keeperChannel: Int32?

  /// For ArgumentParser.
  public init() {}

  /// A year: beyond that it is for ever.
  private static let maximumGiveUpSeconds: UInt64 = 31_536_000

  /// How long nothing may be heard of the other side.
  public var heartbeatBudgetNanoseconds: UInt64 { heartbeatBudget * 1_000_000 }

  /// How long a lost link is waited for; nil for ever.
  public var giveUpNanoseconds: UInt64? { giveUpAfter.map { $0 * 1_000_000_000 } }

  /// Refuses what contradicts itself.
  public func validate() throws {
    if vm.isEmpty || vm.utf8.count > 255 || vm.contains("/") || vm.hasPrefix(".") {
      throw ValidationError(
        "--vm must be a name of 1 to 255 bytes without '/' that does not begin with '.'")
    }
    guard (200...60_000).contains(heartbeatBudget) else {
      throw ValidationError("--heartbeat-budget must be 200 to 60000 milliseconds")
    }
    if let giveUpAfter, giveUpAfter > Self.maximumGiveUpSeconds {
      throw ValidationError(
        "--give-up-after must be 0 to \(Self.maximumGiveUpSeconds) seconds; leave it out to wait "
          + "for ever")
    }
    if tls != nil && insecure {
      throw ValidationError("--tls and --insecure exclude each other")
    }
    if tlsPeer != nil && tls == nil { throw ValidationError("--tls-peer goes with --tls") }
    if verbose && quiet { throw ValidationError("--verbose and --quiet exclude each other") }
  }
}

// What the options mean. Whatever is wrong with their text is a usage error (exit code 64); what is
// wrong with the things they name is a refusal (exit code 10).
extension CommonOptions {
  /// The VM's name, fit for journals and messages.
  public func vmName() throws -> VMName {
    do { return try VMName(vm) } catch { throw ValidationError("--vm: \(error)") }
  }

  /// Where messages, progress and the report go; `context` is that of a worker, whose followers
  /// hear it too.
  public func console(for context: WorkerContext? = nil) -> Console {
    var follower: Console.Follower?
    if let context { follower = { line in context.publish(line) } }
    return Console(
      vmName: vm, style: .ofThisProcess(isQuiet: quiet, isVerbose: verbose, isJSON: json),
      follower: follower)
  }

  /// The trace that was asked for: nothing where none was. A new session is refused without it;
  /// one that is gone on with goes on with its trace if it can, and never waits for it.
  public func migrationTrace(
    process: String, isContinued: Bool, console: Console
  ) throws(Refusal) -> MigrationTrace {
    guard let trace else { return MigrationTrace(nil) }
    do throws(TraceFileError) {
      return MigrationTrace(
        try TraceFile(path: trace, isContinued: isContinued, process: "\(process) \(vm)"))
    } catch {
      guard isContinued else { throw Refusal(.unfit, "\(error)") }
      console.log(.warning, "\(error); the session goes on without it")
      return MigrationTrace(nil)
    }
  }

  /// The context of a worker with these options; nil in the process that an operator starts, which
  /// is its parent.
  public func workerContext(_ arguments: [String]) throws(Refusal) -> WorkerContext? {
    guard let keeperChannel else { return nil }
    do throws(SystemError) {
      // Without the channel, which the parent has put behind them.
      return WorkerContext(
        keeper: try KeeperClient(inheritedNumber: keeperChannel),
        arguments: arguments.dropLast(2))
    } catch { throw Refusal(.internalError, "the parent's channel cannot be used: \(error)") }
  }

  /// Where journals are kept.
  public func directory() throws(Refusal) -> StateDirectory {
    do throws(StateError) {
      return try StateDirectory.ofThisProcess(override: stateDir)
    } catch { throw Refusal(.journal, "\(error)") }
  }

  /// The session's secret.
  public func token() throws(Refusal) -> SessionToken {
    do throws(TokenFileError) {
      return try TokenFile.read(tokenFile)
    } catch { throw Refusal(.token, "\(error)") }
  }

  /// An address, which must not send guest memory over a network in the clear by mistake.
  public func endpoint(_ text: String, option: String) throws -> Endpoint {
    let endpoint: Endpoint
    do throws(EndpointError) {
      endpoint = try Endpoint(parsing: text)
    } catch { throw ValidationError("\(option): \(error)") }
    if case .internet = endpoint, tls == nil, !insecure {
      throw ValidationError(
        "\(option) \(text): TCP needs --tls DIRECTORY, with certificates for both sides (make them "
          + "with: postcopyctl certificates DIRECTORY --host NAME); or say --insecure if nobody "
          + "else is on that network, or use unix:PATH")
    }
    return endpoint
  }

  /// How connections to or from these addresses are protected; says aloud when they are not.
  public func security(
    of endpoints: [Endpoint], console: Console
  ) throws(Refusal) -> LinkSecurity {
    let isRemote = endpoints.contains { if case .internet = $0 { true } else { false } }
    if let tls {
      do throws(TLSDirectoryError) {
        return .tls(try TLSDirectory.load(tls, peerName: tlsPeer))
      } catch { throw Refusal(.unfit, "\(error)") }
    }
    if isRemote {
      console.log(
        .warning,
        "--insecure: this migration is not encrypted; anyone on the network can read the VM's "
          + "memory and its token, and can change what the VM runs")
    }
    return .insecure
  }

  /// The VMM that runs the VM.
  public func frontEnd(_ text: String) throws -> any VMMFrontEnd {
    do throws(VMMSelectionError) {
      return try VMMSelection.parse(text).makeFrontEnd(vmName: vm)
    } catch { throw ValidationError("\(error)") }
  }
}
