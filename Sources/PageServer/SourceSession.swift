public import Migration
internal import Pages
public import Prefetch
public import Session
public import System
public import Uring
public import VMM
public import Wire

/// What the operator asked the source to do.
public struct SourceConfiguration: Sendable {
  /// Memory for seeds that were sent: as much as QEMU has for its cache of XBZRLE.
  public static let usualDeltaCacheByteCount: UInt64 = 64 << 20

  /// The VM.
  public var vmName: VMName
  /// Its memory.
  public var memory: MemorySource
  /// Its VMM.
  public var frontEnd: any VMMFrontEnd
  /// Where the destination dials.
  public var endpoint: Endpoint
  /// How the connections are protected.
  public var security: LinkSecurity
  /// The session's secret.
  public var token: SessionToken
  /// When the VM is switched over.
  public var mode: MigrationMode
  /// What is pushed next; nil pushes nothing, so that only demanded pages move: for measurements.
  public var prefetch: PrefetchKind?
  /// When rounds of seeds end; for modes that have them.
  public var switchLimits = SwitchLimits()
  /// Bytes of pages sent in a second by all bulk connections together; nil for all that goes.
  public var bulkBytesPerSecond: UInt64?
  /// Whether pages are packed on bulk connections.
  public var packing = Packing.automatic
  /// How much of its processor time the guest may lose so that rounds come to fit, in percent; 0
  /// for none.
  public var maximumThrottlePercent = 0
  /// By what that is to be taken.
  public var wantedThrottleMeans = ThrottleMeans.automatic
  /// What keeps the bound of the VMM's control group; where `throttleMeans` is that.
  public var throttleKeeper: ThrottleKeeperClient?
  /// How it is found out what the VM writes while rounds of seeds are sent.
  public var tracking = WriteTracking.automatic
  /// Memory for seeds as they were sent last, so that later ones are sent as what has changed
  /// since; 0 keeps none. Only where pages are packed.
  public var deltaCacheByteCount = Self.usualDeltaCacheByteCount
  /// Bulk connections.
  public var bulkConnectionCount: UInt8
  /// Where the journal is.
  public var directory: StateDirectory
  /// Time limits.
  public var limits: SourceLimits
  /// How long nothing may be heard of the destination until the link counts as lost.
  public var heartbeatBudgetNanoseconds: UInt64
  /// How long the thread that answers demands looks for the next one before it sleeps, at most.
  public var busyPollNanoseconds = BusyPollWindow.usualMaximumNanoseconds
  /// Where the urgent thread runs.
  public var urgentPlacement: ThreadPlacement
  /// Where the bulk threads run.
  public var bulkPlacement: ThreadPlacement

  /// A configuration with all that has no usual value.
  public init(
    vmName: VMName, memory: MemorySource, frontEnd: any VMMFrontEnd, endpoint: Endpoint,
    security: LinkSecurity, token: SessionToken, directory: StateDirectory
  ) {
    self.vmName = vmName
    self.memory = memory
    self.frontEnd = frontEnd
    self.endpoint = endpoint
    self.security = security
    self.token = token
    self.directory = directory
    mode = .postCopy
    prefetch = .bubbling
    bulkConnectionCount = 1
    limits = SourceLimits()
    heartbeatBudgetNanoseconds = LinkMonitor.defaultBudgetNanoseconds
    urgentPlacement = ThreadPlacement(isUrgent: true)
    bulkPlacement = ThreadPlacement()
  }
}

/// What happens in a session, for whoever watches it. Called on the session's thread: must not
/// block.
public enum SourceNote: Sendable {
  /// A session of an earlier process is taken up, and stands there.
  case recovered(SourceState)
  /// The destination may dial now.
  case listening(Endpoint)
  /// A connection that does not speak our protocol was closed.
  case stranger(peer: String, StrangerError)
  /// A client was refused.
  case refused(peer: String, Refusal)
  /// The destination is connected.
  case joined(peer: String)
  /// The destination left before anything was changed; another may come.
  case left(Refusal)
  /// The link to the destination is lost after the hand-off; it is awaited again.
  case lost(Refusal)
  /// The destination has come back.
  case restored(peer: String, outageNanoseconds: UInt64)
  /// The core went on.
  case state(SourceState)
  /// A round of seeds has ended.
  case seedRound(SeedRoundNote)
  /// The operator has set another cap of what bulk connections send; nil: none any more.
  case bandwidthLimited(bytesPerSecond: UInt64?)
  /// A stop was asked for and refused once.
  case stopRefused(Refusal)
  /// A signal came that ends nothing.
  case signalIgnored(SessionSignal)
  /// A dead process had left the VM's control group with less processor time.
  case leftThrottle(LeftThrottleNote)
  /// The guest is not slowed down, or not let go, as it should be.
  case throttleProblem(String)
  /// About four times a second.
  case progress(SourceProgress)
}

/// How far the source is.
public struct SourceProgress: Sendable {
  /// Where the core stands.
  public var state: SourceState
  /// Nanoseconds since the session began.
  public var elapsedNanoseconds: UInt64
  /// Pages of the image; 0 while no destination has joined.
  public var totalPageCount: UInt64
  /// What the data plane has done.
  public var counts: SourceCounts?
}

/// One migration of one VM away from this host, from the first check to the outcome: the edge that
/// carries out what `SourceCore` decides. One thread runs it.
public final class SourceSession {
  /// How often progress is told.
  static let progressNanoseconds: UInt64 = 250_000_000
  /// Places for what other threads have to say: two answers of the VMM, one of the doorkeeper for
  /// each of its places, and room.
  static let inputCapacity = 256

  /// What other threads tell the session's thread.
  enum Input: Sendable {
    case arrival(Arrival)
    case stranger(peer: String, StrangerError)
    case core(SourceEvent)
    case order(OrderRequest)
    case guest(VMMStatus)
    case seedRound(SeedRoundNote)
    case throttleProblem(String)
    case seedRunEnded(run: UInt64, SeedRunEnd, isLeftPaused: Bool)
  }

  let configuration: SourceConfiguration
  let observer: (SourceNote) -> Void
  let backing: any MemoryBacking
  let inputs: Mailbox<Input>
  let vmmWorker: SerialWorker
  let seedWorker: SerialWorker
  let listener: Listener
  let lock: VMLock
  let binding: VMBinding
  let bandwidth: BandwidthLimit
  let sentSeeds: SentSeeds
  /// What slows the guest down; nil when nothing is to.
  let throttle: ChosenThrottle?
  /// Has the VM stand still for a look at what it writes, where it has to.
  let lookPause: LookPause
  let started = MonotonicClock.now()
  var journal: SourceJournal
  var core: SourceCore
  var admission: Admission
  var wakefulPause = WakefulPause()
  var effects = EffectQueue<SourceEffect>()
  var pending: [SourceEvent] = []
  var isDraining = false
  var timers = TimerSet<SourceTimer>()
  var doorkeeper: Doorkeeper?
  var plane: SourceDataPlane?
  /// The rounds of seeds, from the first one on.
  var seeder: Seeder?
  /// Which run of rounds counts: each link of the rounds has one of its own.
  var seedRun: UInt64 = 0
  var openSeedRunCount = 0
  /// An operator wants the rounds to end.
  var isSwitchTold = false
  /// The destination was here before.
  var isReturnLink = false
  /// READY of a destination whose bulk connections are still to come.
  var earlyReady: ControlMessage?
  let counters = SourceCounters()
  /// What every new link has to be told as well.
  var isServing = false
  var isPushing = false
  var hasJoined = false
  /// When the link was lost; nil while there is one, or before the first.
  var linkLostAt: Instant?
  var guest: VMMStatus?
  /// The order that is being handled; nil for one that came as a signal.
  var order: OrderRequest?
  var outcome: Outcome?

  /// Checks everything that can be checked before the VM is touched, takes the VM's lock, opens its
  /// journal and the port. A refusal here has changed nothing.
  public convenience init(
    _ configuration: SourceConfiguration, observer: @escaping (SourceNote) -> Void
  ) throws(Refusal) {
    let preflight = try SourcePreflight(configuration) { observer(.leftThrottle($0)) }
    if let exported = preflight.exported {
      try self.init(configuration, preflight, exported, observer: observer)
      return
    }
    let session: SessionID
    do throws(SystemError) { session = try SessionID.random() } catch {
      throw Refusal(.unfit, "this host cannot run the session: \(error)")
    }
    let wasInterrupted = preflight.wasInterrupted
    let core = SourceCore(
      session: session, epoch: preflight.epoch, mode: configuration.mode,
      limits: configuration.limits)
    try self.init(configuration, preflight, core, observer: observer)
    if wasInterrupted { resumeInterrupted() }
  }

  /// Everything that is opened, around a core that is new or recovered.
  init(
    _ configuration: SourceConfiguration, _ checked: consuming SourcePreflight,
    _ core: SourceCore, observer: @escaping (SourceNote) -> Void
  ) throws(Refusal) {
    var preflight = checked
    self.configuration = configuration
    self.observer = observer
    self.core = core
    backing = preflight.backing
    binding = preflight.binding
    lock = preflight.takeLock()
    journal = preflight.takeJournal()
    listener = preflight.listener
    throttle = preflight.throttle
    lookPause = LookPause(
      configuration.frontEnd, session: core.session, found: preflight.pauseMarks,
      in: configuration.directory)
    bandwidth = BandwidthLimit(bytesPerSecond: configuration.bulkBytesPerSecond)
    sentSeeds = SentSeeds(
      deltaCacheByteCount: configuration.packing == .none ? 0 : configuration.deltaCacheByteCount)
    admission = Admission(
      vmName: configuration.vmName.text, session: core.session, epoch: core.epoch,
      mode: core.mode, bulkConnectionCount: configuration.bulkConnectionCount,
      image: preflight.image, token: configuration.token)
    admission.processorFeatures = SourcePreflight.processorFeatures(
      of: configuration.memory, vmmProcess: preflight.binding.vmm?.pid)
    do throws(SystemError) {
      inputs = try Mailbox(capacity: Self.inputCapacity)
      vmmWorker = try SerialWorker(name: "vmm", capacity: 8)
      seedWorker = try SerialWorker(name: "seeder", capacity: 16)
    } catch {
      throw Refusal(.unfit, "this host cannot run the session: \(error)")
    }
  }

  /// Runs the session to its end. `signals` are the operator's.
  public func run(signals: borrowing SignalSource) throws(SystemError) -> SourceResult {
    do throws(SystemError) {
      try runToOutcome(signals)
    } catch {
      // The kernel failed our loop: what runs on other threads ends in good order all the same.
      seeder?.cancel()
      plane?.stop()
      // A VM that stands still for a look runs on before.
      seedWorker.stop()
      throw error
    }
    return close()
  }

  private func runToOutcome(_ signals: borrowing SignalSource) throws(SystemError) {
    core.start(now: MonotonicClock.now(), into: &effects)
    carryOut()
    drain()
    var nextProgress = started.advanced(byNanoseconds: Self.progressNanoseconds)
    while outcome == nil {
      try takeSignals(signals)
      takeInputs()
      takeTimers()
      let now = MonotonicClock.now()
      if now >= nextProgress {
        observer(.progress(progress(now)))
        wakefulPause.note(isPaused: core.state.isHandOver, now: now)
        nextProgress = now.advanced(byNanoseconds: Self.progressNanoseconds)
      }
      guard outcome == nil else { break }
      _ = try Readiness.wait(
        for: [
          inputs.readiness.rawValue, signals.descriptor.rawValue,
          plane?.events.readiness.rawValue ?? -1,
        ], until: min(nextProgress, timers.next ?? nextProgress))
    }
  }

  private func takeSignals(_ signals: borrowing SignalSource) throws(SystemError) {
    while let signal = try signals.next() {
      switch signal {
      case .hangUp: observer(.signalIgnored(signal))
      case .interrupt, .terminate: handle(.operatorAbort)
      }
    }
  }

  private func takeInputs() {
    while let input = inputs.take() {
      switch input {
      case .arrival(let arrival): admit(arrival)
      case .stranger(let peer, let error): observer(.stranger(peer: peer, error))
      case .core(let event): handle(event)
      case .order(let request): handle(request)
      case .guest(let status): guest = status
      case .seedRound(let note): observer(.seedRound(note))
      case .throttleProblem(let problem): observer(.throttleProblem(problem))
      case .seedRunEnded(let run, let end, let isLeftPaused):
        seedRunEnded(run, end, isLeftPaused: isLeftPaused)
      }
    }
    takeNotices()
  }

  /// What the threads of the link have told so far.
  func takeNotices() {
    while let notice = plane?.events.take() { handle(notice) }
  }

  private func takeTimers() {
    while let timer = timers.takeDue(now: MonotonicClock.now()) { handle(.timer(timer)) }
  }

  func progress(_ now: Instant) -> SourceProgress {
    SourceProgress(
      state: core.state, elapsedNanoseconds: now.nanoseconds(since: started),
      totalPageCount: admission.layout?.totalPageCount.rawValue ?? 0,
      counts: hasJoined ? counters.counts() : nil)
  }

  private func close() -> SourceResult {
    doorkeeper?.stop()
    seeder?.cancel()
    plane?.stop()
    seedWorker.stop()
    vmmWorker.stop()
    guard var outcome else { invariantBroken("a session is closed once its outcome is known") }
    // What the VMM's thread had still to say: the last command may have ended after the outcome.
    while let input = inputs.take() {
      switch input {
      case .guest(let status): guest = status
      case .core(.vmm(.disabled)):
        if outcome.source == .stopped { outcome.source = .disabled }
      case .core(.vmm(.disableFailed(let reason))):
        outcome.reason =
          outcome.reason
          ?? Refusal(.vmm, "the source VM is stopped but not disabled: \(reason.reason)")
      case .arrival(let arrival): arrival.connection.shutdown()
      case .throttleProblem(let problem): observer(.throttleProblem(problem))
      case .core, .order, .stranger, .seedRound, .seedRunEnded: break
      }
    }
    // The session was over before the look was, or had none.
    if lookPause.owesResume, outcome.source == .runs {
      outcome.ending = .parked
      outcome.source = .stopped
      outcome.reason = Self.leftPaused
    }
    let end = MonotonicClock.now()
    return SourceResult(
      outcome: outcome, session: core.session, times: core.times,
      totalNanoseconds: end.nanoseconds(since: started),
      roundTripNanoseconds: counters.roundTripNanoseconds,
      totalPageCount: admission.layout?.totalPageCount.rawValue ?? 0,
      counts: hasJoined ? counters.counts() : nil, guest: guest,
      lookPauseNanoseconds: lookPause.takeNanoseconds())
  }
}
