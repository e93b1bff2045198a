public import Migration
internal import Pages
public import Session
public import System
public import Uring
public import VMM
public import Wire

/// What the operator asked the destination to do.
public struct DestinationConfiguration: Sendable {
  /// The VM.
  public var vmName: VMName
  /// The socket on which the VMM hands over its memory.
  public var attachPath: String
  /// Its VMM.
  public var frontEnd: any VMMFrontEnd
  /// Where the source listens; several addresses are tried in turn.
  public var sources: [Endpoint]
  /// How the connections are protected.
  public var security: LinkSecurity
  /// The session's secret.
  public var token: SessionToken
  /// Where the journal and the page states are.
  public var directory: StateDirectory
  /// Time limits.
  public var limits: DestinationLimits
  /// How long the source may take to be reached at first, from the VMM's attaching on.
  public var connectNanoseconds: UInt64
  /// How long nothing may be heard of the source until the link counts as lost.
  public var heartbeatBudgetNanoseconds: UInt64
  /// How long the link may be lost until the VMM is asked to pause the guest; nil: never.
  public var pauseAfterNanoseconds: UInt64?
  /// Who keeps duplicates of the VM's descriptors beside us; nil when nobody does.
  public var keeper: KeeperClient?
  /// Whether the VM may come from a host whose processors can do more than those here.
  public var mayLackFeatures = false
  /// What is to stay free of this host's memory beside all that the VM may need.
  public var headroomByteCount = Preflight.usualHeadroomByteCount
  /// Where the fault thread runs.
  public var faultPlacement: ThreadPlacement
  /// Where the bulk installers run.
  public var bulkPlacement: ThreadPlacement

  /// A configuration with all that has no usual value.
  public init(
    vmName: VMName, attachPath: String, frontEnd: any VMMFrontEnd, sources: [Endpoint],
    security: LinkSecurity, token: SessionToken, directory: StateDirectory
  ) {
    self.vmName = vmName
    self.attachPath = attachPath
    self.frontEnd = frontEnd
    self.sources = sources
    self.security = security
    self.token = token
    self.directory = directory
    limits = DestinationLimits()
    connectNanoseconds = 60_000_000_000
    heartbeatBudgetNanoseconds = LinkMonitor.defaultBudgetNanoseconds
    faultPlacement = ThreadPlacement(isUrgent: true)
    bulkPlacement = ThreadPlacement()
  }
}

/// What happens in a session, for whoever watches it. Called on the session's thread: must not
/// block.
public enum DestinationNote: Sendable {
  /// The VMM may attach now.
  case awaitingAttach(path: String)
  /// The VMM has attached.
  case attached(pid: Int32, regionCount: Int, pageCount: UInt64)
  /// Where seeds go, and why; in modes with rounds.
  case seedsPlaced(SeedPlacement)
  /// The source is dialled; it was not there the last time.
  case dialling(Endpoint, String)
  /// A session of an earlier process is taken up, and stands there.
  case recovered(DestinationState)
  /// The source took us in.
  case joined(Endpoint)
  /// The link to the source is lost; it is being dialled again.
  case lost(Refusal)
  /// The source has taken us in again.
  case restored(Endpoint, outageNanoseconds: UInt64)
  /// The guest was paused because the link is lost. Not complete: the vCPUs that wait for pages
  /// stop when these arrive.
  case guestPaused(isComplete: Bool)
  /// The guest runs on.
  case guestResumed(GuestResumeReason, pausedNanoseconds: UInt64)
  /// The core went on.
  case state(DestinationState)
  /// Something happened that an operator should know and that ends nothing.
  case warning(String)
  /// A stop was asked for and refused once.
  case stopRefused(Refusal)
  /// A signal came that ends nothing.
  case signalIgnored(SessionSignal)
  /// About four times a second.
  case progress(DestinationProgressReport)
}

/// How far the destination is.
public struct DestinationProgressReport: Sendable {
  /// Where the core stands.
  public var state: DestinationState
  /// Nanoseconds since the session began.
  public var elapsedNanoseconds: UInt64
  /// Pages of the image; 0 while no source was found.
  public var totalPageCount: UInt64
  /// What the data plane has done; nil before there is one.
  public var statistics: DataPlaneStatistics?
}

/// All that is known at the end of a session at the destination.
public struct DestinationResult: Sendable {
  /// How it ended.
  public var outcome: Outcome
  /// The session's id; nil when none began.
  public var session: SessionID?
  /// How the migration was done; nil when no source was found.
  public var mode: MigrationMode?
  /// Moments of the hand-over.
  public var times: DestinationTimes
  /// Nanoseconds from the session's start to its end.
  public var totalNanoseconds: UInt64
  /// Pages of the image.
  public var totalPageCount: UInt64
  /// Bytes of device state.
  public var deviceStateByteCount: Int
  /// Where seeds went; nil when none could come, or an earlier process took them.
  public var seedPlacement: SeedPlacement?
  /// What the data plane did; nil when there never was one.
  public var statistics: DataPlaneStatistics?
  /// What the guest had done when it started here, and at the end.
  public var guestAtStart: VMMStatus?
  /// See `guestAtStart`.
  public var guestAtEnd: VMMStatus?
  /// How the guest was paused for a lost link; nil when it never was.
  public var guestPause: GuestPauseTally?
}

/// One migration of one VM to this host, from the VMM's attaching to the outcome: the edge that
/// carries out what `DestinationCore` decides. One thread runs it.
public final class DestinationSession {
  /// How often progress is told.
  static let progressNanoseconds: UInt64 = 250_000_000
  /// How long memory that ran out is waited for before the fill is tried again.
  static let memoryRetryNanoseconds: UInt64 = 1_000_000_000
  /// Places for what other threads have to say: an answer of the VMM, one of the set-up, and room.
  static let inputCapacity = 64

  /// What other threads tell the session's thread.
  enum Input: Sendable {
    case attached(AttachedVM)
    case attachEnded(Refusal?)
    case dialNews(DialNews, dial: UInt32)
    case dialled(DialResult, dial: UInt32)
    case core(DestinationEvent)
    case order(OrderRequest)
    case guest(VMMStatus, isAtStart: Bool)
    case pauseAnswered(GuestPause.Answer, told: String?)
  }

  let configuration: DestinationConfiguration
  let observer: (DestinationNote) -> Void
  let inputs: Mailbox<Input>
  /// Attaching, dialling.
  let setupWorker: SerialWorker
  /// What the VMM is asked; a load can take as long as its pages do.
  let vmmWorker: SerialWorker
  /// Ending the VMM, whatever it is in the middle of.
  let killWorker: SerialWorker
  /// Pausing and resuming the guest for a lost link: nobody waits for it.
  let pauseWorker: SerialWorker
  let cancelSetup: WakeEvent
  let lock: VMLock
  let started = MonotonicClock.now()
  var journal: DestinationJournal
  var core: DestinationCore
  var wakefulPause = WakefulPause()
  var effects = EffectQueue<DestinationEffect>()
  var pending: [DestinationEvent] = []
  var isDraining = false
  /// An earlier process began it.
  var isRecovered = false
  var timers = TimerSet<DestinationTimer>()
  var memoryRetry: Instant?
  var guestPause: GuestPause
  var pauseReason = GuestResumeReason.linkRestored
  var vm: AttachedVM?
  /// Of its memory, as the source must have it; empty until they are known.
  var regions: [Region] = []
  var binding: VMBinding?
  var plane: DestinationDataPlane?
  /// Where seeds go; nil in modes without, and to a process that came later.
  var seedPlacement: SeedPlacement?
  var isLinkUp = false
  /// When the link was lost; nil while there is one, or before the first.
  var linkLostAt: Instant?
  var linkUpAt: Instant?
  /// The address at which the last link could not be completed.
  var uselessSource: Endpoint?
  /// Ends the dialling that is under way.
  var cancelDial: WakeEvent?
  var dialNumber: UInt32 = 0
  var deviceState: [UInt8] = []
  var deviceStateByteCount = 0
  /// Stale seeds, as FROZEN counted them and as they were named on bulk, until both are here.
  var announcedDiscards: PageCount?
  var namedDiscards: PageCount?
  var guestAtStart: VMMStatus?
  var guestAtEnd: VMMStatus?
  var mode: MigrationMode?
  /// The session whose run directory exists.
  var preparedSession: SessionID?
  /// The order that is being handled; nil for one that came as a signal.
  var order: OrderRequest?
  var outcome: Outcome?

  /// Checks everything that can be checked before a VMM attaches, takes the VM's lock and opens its
  /// journal. A refusal here has changed nothing.
  public init(
    _ configuration: DestinationConfiguration, observer: @escaping (DestinationNote) -> Void
  ) throws(Refusal) {
    self.configuration = configuration
    self.observer = observer
    core = DestinationCore(limits: configuration.limits)
    guestPause = GuestPause(afterNanoseconds: configuration.pauseAfterNanoseconds)
    do throws(StateError) {
      try configuration.directory.prepare(vm: configuration.vmName)
      lock = try VMLock.take(
        vm: configuration.vmName, side: .destination, in: configuration.directory)
    } catch {
      throw Refusal(.journal, "\(error)")
    }
    do throws(JournalError) {
      journal = try DestinationJournal.open(
        vm: configuration.vmName, in: configuration.directory)
    } catch {
      throw Refusal(.journal, "\(error)")
    }
    do throws(SystemError) {
      inputs = try Mailbox(capacity: Self.inputCapacity)
      setupWorker = try SerialWorker(name: "setup", capacity: 4)
      vmmWorker = try SerialWorker(name: "vmm", capacity: 8)
      killWorker = try SerialWorker(name: "kill", capacity: 2)
      pauseWorker = try SerialWorker(name: "pause", capacity: 2)
      cancelSetup = try WakeEvent()
    } catch {
      throw Refusal(.unfit, "this host cannot run the session: \(error)")
    }
  }

  /// Runs the session to its end. `signals` are the operator's.
  public func run(signals: borrowing SignalSource) throws(SystemError) -> DestinationResult {
    do throws(SystemError) {
      try runToOutcome(signals)
    } catch {
      // The kernel failed our loop: what runs on other threads ends in good order all the same.
      plane?.stop()
      throw error
    }
    return close()
  }

  private func runToOutcome(_ signals: borrowing SignalSource) throws(SystemError) {
    if isRecovered { startRecovered() } else { attach() }
    var nextProgress = started.advanced(byNanoseconds: Self.progressNanoseconds)
    while outcome == nil {
      try takeSignals(signals)
      takeInputs()
      let now = MonotonicClock.now()
      takeTimers(now)
      stepPause(now)
      if now >= nextProgress {
        observer(.progress(progress(now)))
        wakefulPause.note(isPaused: core.state.isHandOver, now: now)
        nextProgress = now.advanced(byNanoseconds: Self.progressNanoseconds)
      }
      guard outcome == nil else { break }
      let deadline = [nextProgress, timers.next, memoryRetry, nextPauseStep].compactMap(\.self)
        .min()
      _ = try Readiness.wait(
        for: [
          inputs.readiness.rawValue, signals.descriptor.rawValue,
          plane?.events.readiness.rawValue ?? -1,
        ], until: deadline)
    }
  }

  private func takeSignals(_ signals: borrowing SignalSource) throws(SystemError) {
    while let signal = try signals.next() {
      switch signal {
      case .hangUp: observer(.signalIgnored(signal))
      case .interrupt, .terminate: stop(.operatorAbort)
      }
    }
  }

  /// Ends a session in which nothing was begun.
  func refuse(_ reason: Refusal) {
    outcome = Outcome(ending: .refused, reason: reason, source: .untouched, destination: .untouched)
  }

  private func takeInputs() {
    while let input = inputs.take() { handle(input) }
    while let event = plane?.events.take() { handle(event) }
  }

  private func takeTimers(_ now: Instant) {
    while let timer = timers.takeDue(now: now) { handle(.timer(timer)) }
    if let retry = memoryRetry, retry <= now {
      memoryRetry = nil
      plane?.retryAfterMemoryPressure()
    }
  }

  private func progress(_ now: Instant) -> DestinationProgressReport {
    DestinationProgressReport(
      state: core.state, elapsedNanoseconds: now.nanoseconds(since: started),
      totalPageCount: plane == nil ? 0 : vm?.layout.totalPageCount.rawValue ?? 0,
      statistics: plane?.statistics())
  }
}
