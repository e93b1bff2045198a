public import ArgumentParser
internal import Migration
internal import Reporting
public import Session
public import System
internal import Wire

/// The parent of a session's worker, as `page-server send` and `postcopyd receive` are it: what
/// happens to the worker, in words, and the exit code.
public struct ParentProcess {
  private let verb: String
  private let arguments: [String]
  private let options: CommonOptions
  private let side: JournalSide
  private let console: Console

  /// The parent of a worker of that side, which does first what `verb` says with these options; the
  /// one that goes on where another died gets the same ones.
  public init(
    options: CommonOptions, side: JournalSide, verb: String, arguments: [String]
  ) {
    self.options = options
    self.side = side
    self.verb = verb
    self.arguments = arguments
    console = options.console()
  }

  /// Runs the worker, and those after it, to the end. Needs no right and opens nothing that a
  /// session needs: that is the worker's part.
  public func run(signals: borrowing SignalSource) throws -> ExitCode {
    let directory: StateDirectory
    do throws(Refusal) {
      directory = try options.directory()
    } catch { return ExitCode(refuse(error)) }
    var plan = SupervisorPlan(first: workerArguments(verb))
    plan.restart = workerArguments(RecoverVerb.name)
    if verb != RecoverVerb.name {
      let earlier = lastSession(directory)
      plan.obstacle = {
        lastSession(directory) == earlier
          ? "the worker died before anything was begun; end a VMM that has attached to it, and "
            + "start again" : nil
      }
    }
    plan.controlSocketPath = directory.controlSocketPath(ofVM: try options.vmName(), side: side)
    plan.storeAddress = ServiceDescriptors.address()
    plan.stored = stored()
    let supervisor = Supervisor(plan, observer: note)
    do throws(SystemError) {
      switch try supervisor.run(signals: signals) {
      case .worker(let exitCode): return ExitCode(exitCode)
      case .refused(let reason): return ExitCode(refuse(Refusal(.session, reason)))
      case .parked(let reason): return ExitCode(park(reason, directory))
      }
    } catch {
      console.log(
        .error,
        "a bug of ours ended the parent process: \(error). A worker that lives goes on by itself; "
          + "start the VM on neither host by hand")
      return ExitCode(BugExit.code)
    }
  }

  /// This program's name in front, the channel's number behind.
  private func workerArguments(_ verb: String) -> [String] {
    [CommandLine.arguments.first ?? side.name, verb] + arguments
      + ["--keeper-channel", "\(ChildProcess.passedDescriptorNumber)"]
  }

  private func stored() -> [KeptDescriptor] {
    ServiceDescriptors.passed().compactMap { passed in
      do throws(SystemError) {
        return KeptDescriptor(name: passed.name, try ServiceDescriptors.take(passed))
      } catch {
        console.log(.warning, "the service manager's descriptor \(passed.name) is lost: \(error)")
        return nil
      }
    }
  }

  private func note(_ note: SupervisorNote) {
    switch note {
    case .started(let pid): console.log(.debug, "worker: pid \(pid)")
    case .adopted(let pid):
      console.log(
        .notice,
        "a worker without a parent (pid \(pid)) has this session; this process is its parent now")
    case .died(let pid, let how): console.log(.warning, "the worker (pid \(pid)) died: \(how)")
    case .restarting(let nanoseconds, let count):
      console.log(
        .warning, "another worker goes on in \(nanoseconds / 1_000_000) ms (restart \(count))")
    case .event(let line): console.relay(line)
    case .warning(let text): console.log(.warning, text)
    case .staying(let reason):
      console.log(
        .warning, "this process stays until the VMM has ended or is whole: \(reason)")
    case .stopRefused(let signal, let reason):
      console.log(.warning, "\(signal.name) does not end this process: \(reason)")
    }
  }

  private func refuse(_ refusal: Refusal) -> Int32 {
    finish(
      Outcome(ending: .refused, reason: refusal, source: .untouched, destination: .untouched))
  }

  private func park(_ reason: String, _ directory: StateDirectory) -> Int32 {
    let (source, destination) = hostStates(directory)
    return finish(
      Outcome(
        ending: .parked, reason: Refusal(.internalError, reason), source: source,
        destination: destination))
  }

  /// The last session that the journal has; nil when there is none.
  private func lastSession(_ directory: StateDirectory) -> SessionID? {
    guard let name = try? options.vmName() else { return nil }
    let path = directory.journalPath(ofVM: name, side: side)
    switch side {
    case .source:
      let histories: [SessionHistory<SourceRecord>]? = try? SourceJournal.read(path: path)
      return histories?.last?.session
    case .destination:
      let histories: [SessionHistory<DestinationRecord>]? =
        try? DestinationJournal.read(path: path)
      return histories?.last?.session
    }
  }

  /// What the journal proves; what a worker said is gone with it.
  private func hostStates(_ directory: StateDirectory) -> (HostState, HostState) {
    guard let name = try? options.vmName() else { return (.unknown, .unknown) }
    let path = directory.journalPath(ofVM: name, side: side)
    switch side {
    case .source:
      let histories: [SessionHistory<SourceRecord>]? = try? SourceJournal.read(path: path)
      return Self.hostStates(histories?.last?.records.last)
    case .destination:
      let histories: [SessionHistory<DestinationRecord>]? =
        try? DestinationJournal.read(path: path)
      return Self.hostStates(histories?.last?.records.last)
    }
  }

  private static func hostStates(_ last: SourceRecord?) -> (HostState, HostState) {
    switch last {
    case nil: (.unknown, .unknown)
    // Its worker may have died between pausing the VM and handing it over.
    case .opened, .resumed, .fenced: (.stopped, .unknown)
    case .handedOff: (.stopped, .mayRun)
    case .ranAcknowledged: (.stopped, .runs)
    case .completed: (.disabled, .runs)
    case .aborted: (.runs, .unknown)
    }
  }

  private static func hostStates(_ last: DestinationRecord?) -> (HostState, HostState) {
    switch last {
    case nil, .opened, .prepared: (.unknown, .stopped)
    case .goAccepted: (.stopped, .mayRun)
    case .ran: (.stopped, .runs)
    case .complete: (.disabled, .runs)
    case .runRuledOut, .aborted: (.unknown, .ruledOut)
    }
  }

  private func finish(_ outcome: Outcome) -> Int32 {
    console.say(OperatorMessage(outcome, vmName: options.vm), level: .error)
    console.finish(
      MigrationReport(
        vm: options.vm, session: nil, side: side.name, outcome: outcome, mode: "",
        startedAt: WallClock.timestamp(), totalNanoseconds: 0))
    return outcome.ending.exitCode
  }
}
