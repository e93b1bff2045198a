internal import Migration
internal import Pages
internal import Session
internal import System
internal import UFFD
internal import Uring
internal import VMM
internal import Wire

// What other threads tell, in the words of the core.
extension DestinationSession {
  func handle(_ input: Input) {
    switch input {
    case .attached(let vm): if outcome == nil { attached(vm) }
    case .attachEnded(let reason): if let reason, outcome == nil { refuse(reason) }
    case .dialNews(let news, let dial): handle(news, dial: dial)
    case .dialled(let result, let dial): handle(result, dial: dial)
    case .core(let event): handle(event)
    case .order(let request): if outcome == nil { handle(request) }
    case .guest(let status, let isAtStart):
      if isAtStart { guestAtStart = status } else { guestAtEnd = status }
    case .pauseAnswered(let answer, let told): pauseAnswered(answer, told)
    }
  }

  /// Memory trouble before GO was accepted ends the migration: the source runs on. Afterwards the
  /// VM has only us: it waits for its page as long as it takes.
  private var isBeforeGo: Bool {
    switch core.state {
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared:
      true
    case .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging, .rulingOut,
      .killing, .recordingAborted, .aborted, .finished:
      false
    }
  }

  func handle(_ event: DataPlaneEvent) {
    switch event {
    case .control(let message): handle(.received(message))
    case .deviceState(let bytes):
      deviceState = bytes
      deviceStateByteCount = bytes.count
      handle(.deviceStateReceived)
    case .discarded(let pageCount):
      namedDiscards = pageCount
      judgeDiscards()
      drain()
    case .pushFinished: break
    case .allHere: handle(DestinationEvent.allHere)
    case .allResident: handle(DestinationEvent.allResident)
    case .linkLost(_, _, let error):
      // A source that has read ABORTED closes in good order: there is nobody left to be told.
      let isFinal = core.state == .aborted && error.kind == .closedByPeer
      loseLink(Refusal(.timeout, error.description), isFinal: isFinal)
    case .protocolViolation(_, _, .refused(let refusal)): loseLink(refusal)
    case .protocolViolation(_, _, let violation): loseLink(violation.told, isTold: true)
    case .vmmGone: handle(.vmm(.died(Refusal(.vmm, "the VMM's process has ended"))))
    case .memoryPressure(let run): memoryPressure(run)
    case .mappingLost(let run):
      memoryFailed(
        "page \(run.start.rawValue) of region \(run.region.rawValue) cannot be "
          + "installed: the VMM's mapping is not what it was")
    case .staleInPlace(let errno):
      memoryFailed(
        "a page that the VM has written since it was seeded cannot be taken out of its memory "
          + "here (\(errno))")
    case .seedsHeldUp:
      observer(
        .warning(
          "the VMM changes its memory's mappings while seeds come: those that come meanwhile are "
            + "lost, and come again when the VM runs here"))
    case .faultOutsideRegions(let address):
      observer(
        .warning(
          "somebody waits at \(address), which belongs to no region that the VMM named, and goes "
            + "on waiting: nothing is known of what belongs there"))
    case .addressSpaceChanged(let change):
      observer(.warning("the VMM changed its address space during the migration: \(change)"))
    case .poisonNotSupported(let page):
      memoryFailed(
        "page \(page.page.rawValue) of region \(page.region.rawValue) is poisoned at the source, "
          + "and this kernel cannot poison it here (needs 6.6): whoever touches it waits")
    case .userfaultFailed(let error):
      if core.state == .acknowledging {
        observer(
          .warning(
            "every page is here, but a part of the VM's memory could not be unregistered: \(error)")
        )
      }
      memoryFailed("\(error)")
    case .ringFailed(let error): memoryFailed("\(error)")
    }
  }

  private func memoryPressure(_ run: PageRun) {
    guard !isBeforeGo else {
      return memoryFailed("this host is out of memory for the VM")
    }
    if memoryRetry == nil {
      observer(
        .warning(
          "this host is out of memory: page \(run.start.rawValue) of region "
            + "\(run.region.rawValue) waits until there is some. Free memory; nothing is lost"))
    }
    memoryRetry = MonotonicClock.now().advanced(byNanoseconds: Self.memoryRetryNanoseconds)
  }

  private func memoryFailed(_ text: String) { handle(.memoryFailed(Refusal(.unfit, text))) }

  /// Ends every thread and says what came of it. Nothing that the VM needs is closed before.
  func close() -> DestinationResult {
    guard var outcome else { invariantBroken("a session is closed once its outcome is known") }
    cancelSetup.signal()
    cancelDial?.signal()
    setupWorker.stop()
    plane?.stop()
    killWorker.stop()
    pauseWorker.stop()
    vmmWorker.stop()
    while let input = inputs.take() {
      switch input {
      case .guest(let status, let isAtStart):
        if isAtStart { guestAtStart = status } else { guestAtEnd = status }
      case .dialled, .dialNews, .pauseAnswered: handle(input)
      case .attached, .attachEnded, .core, .order: break
      }
    }
    let tally = endPause(&outcome)
    if outcome.ending != .parked, let preparedSession {
      // Left-overs of a session that is over are a nuisance, no danger.
      try? configuration.directory.remove(session: preparedSession)
    }
    return DestinationResult(
      outcome: outcome, session: core.session == .none ? nil : core.session, mode: mode,
      times: core.times,
      totalNanoseconds: MonotonicClock.now().nanoseconds(since: started),
      totalPageCount: vm?.layout.totalPageCount.rawValue ?? 0,
      deviceStateByteCount: deviceStateByteCount, seedPlacement: seedPlacement,
      statistics: plane?.statistics(),
      guestAtStart: guestAtStart, guestAtEnd: guestAtEnd, guestPause: tally)
  }
}
