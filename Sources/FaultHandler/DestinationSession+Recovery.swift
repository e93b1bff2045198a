internal import Migration
internal import Pages
internal import Session
public import System
internal import UFFD
internal import VMM
public import Wire

// A session that an earlier process began: its journal, its page states and the VMM's own duplicate
// of the userfaultfd are all that is needed to go on.
extension DestinationSession {
  /// Takes up the VM's last session where its journal leaves it.
  ///
  /// - Parameter userfault: a duplicate that somebody kept for us; without one the VMM's own is
  ///   taken, which needs the right to ptrace it.
  ///
  /// A refusal has changed nothing: what the earlier process left stays as it is.
  public convenience init(
    recovering configuration: DestinationConfiguration, userfault: consuming OwnedDescriptor? = nil,
    observer: @escaping (DestinationNote) -> Void
  ) throws(Refusal) {
    try self.init(configuration, observer: observer)
    guard let history = journal.histories.last else {
      throw Refusal(.session, "VM \"\(configuration.vmName.text)\" has no session to go on with")
    }
    binding = history.binding
    let vm = try Self.findVM(history, configuration, userfault.take())
    let observed = try Self.observe(vm, history, configuration, observer)
    guard
      let core = DestinationCore(
        recovering: history.records, vm: observed, limits: configuration.limits)
    else { throw Refusal(.journal, "the journal of the VM's last session is not understood") }
    self.core = core
    mode = core.mode
    isRecovered = true
    // At least since then: when the earlier process lost it, nobody knows.
    linkLostAt = started
    preparedSession = core.session
    guestPause = GuestPause(
      afterNanoseconds: configuration.pauseAfterNanoseconds,
      wasPaused: vm != nil && PauseMark(of: core.session, in: configuration.directory).isSet)
    if let vm {
      regions = vm.layout.regions
    } else {
      regions = try Self.savedRegions(core.session, configuration)
    }
    guard let vm, core.needsMemory else { return }
    self.vm = vm
    plane = try recoverPlane(vm, core.session)
    handToKeeper(vm)
  }

  /// The VMM's process and its memory; nil when it is gone.
  private static func findVM(
    _ history: SessionHistory<DestinationRecord>, _ configuration: DestinationConfiguration,
    _ kept: consuming OwnedDescriptor?
  ) throws(Refusal) -> AttachedVM? {
    guard let identity = history.binding.vmm else { return nil }
    guard try isOfThisBoot(history.binding), identity.isAlive else { return nil }
    let saved = try SavedAttachment(
      path: configuration.directory.attachmentPath(of: history.session))
    guard saved.process == identity else {
      throw Refusal(.session, "the saved description of the VM's memory is another process's")
    }
    let document = try saved.document()
    do throws(AttachError) {
      return try takeUp(saved, document, kept)
    } catch {
      throw Refusal(
        .vmm,
        "the memory of the VM (\(identity)) cannot be taken up again: \(error). It waits and "
          + "nothing is lost; run as root, or as the VMM's user with CAP_SYS_PTRACE")
    }
  }

  private static func takeUp(
    _ saved: SavedAttachment, _ document: AttachDocument, _ kept: consuming OwnedDescriptor?
  ) throws(AttachError) -> AttachedVM {
    let process = try open(saved)
    return AttachedVM(
      try AttachedMemory(
        recovering: document, userfault: try userfault(kept, saved, process), process: process))
  }

  private static func open(_ saved: SavedAttachment) throws(AttachError) -> ProcessHandle {
    do throws(SystemError) { return try ProcessHandle.open(pid: saved.pid) } catch {
      throw .system(error)
    }
  }

  /// The one that was kept for us, else the VMM's own, under the number that it had when it
  /// attached.
  private static func userfault(
    _ kept: consuming OwnedDescriptor?, _ saved: SavedAttachment,
    _ process: borrowing ProcessHandle
  ) throws(AttachError) -> OwnedDescriptor {
    if let kept = kept.take() { return kept }
    do throws(SystemError) {
      return try process.duplicate(descriptorNumber: saved.userfaultNumber)
    } catch {
      throw .system(error)
    }
  }

  private static func isOfThisBoot(_ binding: VMBinding) throws(Refusal) -> Bool {
    do throws(SystemError) { return binding.boot == (try BootID.current()) } catch {
      throw Refusal(.unfit, "\(error)")
    }
  }

  /// What the VM does; from the journal alone where its VMM does not answer and need not.
  private static func observe(
    _ vm: AttachedVM?, _ history: SessionHistory<DestinationRecord>,
    _ configuration: DestinationConfiguration, _ observer: (DestinationNote) -> Void
  ) throws(Refusal) -> ObservedVM {
    guard let vm else { return .gone }
    do throws(VMMError) {
      switch try configuration.frontEnd.status().state {
      case .paused:
        let isMarked = PauseMark(of: history.session, in: configuration.directory).isSet
        return DestinationCore.observation(
          ofPausedVMBehind: history.records, isPausedForLoss: isMarked)
      case .incoming, .disabled, .none: return .stopped
      // It has run, whatever it does now: nothing is to be started.
      case .running, .pausing, .finished, .guestError: return .running
      }
    } catch {
      guard let known = DestinationCore.observation(ofSilentVMBehind: history.records) else {
        throw unseen(vm.memory.process.identity.pid, configuration.vmName, error)
      }
      observer(
        .warning(
          "the VMM does not answer (\(error)), as one may that waits for pages; the journal alone "
            + "tells what is to be done"))
      return known
    }
  }

  private static func unseen(_ pid: Int32, _ vmName: VMName, _ error: VMMError) -> Refusal {
    Refusal(
      .vmm,
      "it cannot be seen whether the VM runs: \(error). It was never told to run here, and nothing "
        + "was changed: see to it that the VMM (pid \(pid)) answers, or end it, which gives the "
        + "migration up and lets the source go on; then run postcopyd recover --vm "
        + "\(vmName.text) again")
  }

  /// The engine over what the page-state file holds. Without that file nobody knows which pages the
  /// guest has given back, and the source's old content would come back: an operator decides.
  private func recoverPlane(
    _ vm: AttachedVM, _ session: SessionID
  ) throws(Refusal) -> DestinationDataPlane {
    let states: MappedPageStates
    do throws(PageStateFileError) {
      states = MappedPageStates(
        try PageStateFile.open(
          configuration.directory.pageStatePath(of: session), session: session,
          pageCount: vm.layout.totalPageCount))
    } catch {
      throw Refusal(.session, "the page states of the session are lost, it stays parked: \(error)")
    }
    try requireSettledSeeds(states, session)
    let ledger: PageLedger<MappedPageStates>
    do throws(PageStateError) {
      ledger = try PageLedger(recovering: states)
    } catch {
      throw Refusal(
        .session, "the page states of the session are damaged, it stays parked: \(error)")
    }
    // To a later process, what was staged is missing.
    return try startPlane(vm, ledger, session, nil)
  }

  /// Seeds in place outlive the process that took them, and are stale perhaps until they are
  /// settled. A core that did not get to PREPARED ends the VMM, whose memory no other one may have
  /// (`AttachedMemory.requireEmptyFile`); behind PREPARED there can be none, or the page states are
  /// not what that process has left.
  private func requireSettledSeeds(
    _ states: MappedPageStates, _ session: SessionID
  ) throws(Refusal) {
    guard core.state != .killing else { return }
    let saved = try SavedAttachment(path: configuration.directory.attachmentPath(of: session))
    let staged = PageState.staged.rawValue
    guard saved.seedsInPlace == true,
      (0..<states.pageCount).contains(where: { states.load($0) == staged })
    else { return }
    throw Refusal(
      .session,
      "the VM's memory holds seeds that may be stale, though the session is past them: the page "
        + "states of the session are damaged, it stays parked")
  }

  /// Begins a recovered session.
  func startRecovered() {
    observer(.recovered(core.state))
    core.start(now: MonotonicClock.now(), into: &effects)
    carryOut()
    if let plane, plane.isComplete { pending.append(.allResident) }
    drain()
  }

  /// Without memory to serve there is nothing to say but what the journal proves, and a hello says
  /// it. Dials once it proves something, until the source has heard it or the core's own limit ends
  /// the session.
  func tellJournal() {
    guard outcome == nil, cancelDial == nil, !regions.isEmpty else { return }
    switch core.progress {
    case .aborted, .complete: dial()
    case .unknown, .preparing, .prepared, .goAccepted, .ran: break
    }
  }

  /// The source knows us by them; empty after a reboot, when nobody knows them any more.
  private static func savedRegions(
    _ session: SessionID, _ configuration: DestinationConfiguration
  ) throws(Refusal) -> [Region] {
    let path = configuration.directory.attachmentPath(of: session)
    guard FileSystem.isReadWritable(path) else { return [] }
    return try SavedAttachment(path: path).document().layout.regions
  }
}

extension DestinationCore {
  /// Whether pages may still be awaited, or the VMM is to be told something.
  fileprivate var needsMemory: Bool {
    switch state {
    case .aborted, .finished: false
    case .dialing, .opening, .ready, .discarding, .awaitingDeviceState, .loading, .filling,
      .prepared, .acceptingGo, .starting, .recordingRan, .running, .completing, .acknowledging,
      .rulingOut, .killing, .recordingAborted:
      true
    }
  }
}
