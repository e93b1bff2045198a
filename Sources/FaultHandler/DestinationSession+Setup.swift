internal import Migration
internal import Pages
internal import Session
internal import System
internal import UFFD
internal import Uring
internal import VMM
internal import Wire

/// The memory that a VMM handed over, shared between the session and its data plane.
final class AttachedVM: Sendable {
  let memory: AttachedMemory
  let layout: ImageLayout

  init(_ memory: consuming AttachedMemory) {
    layout = memory.document.layout
    self.memory = memory
  }
}

/// The attach socket on its way to the set-up thread.
private final class AttachDoor: Sendable {
  let listener: AttachListener

  init(_ listener: consuming AttachListener) { self.listener = listener }
}

// Attaching and dialling, on the set-up thread; what came of it, on the session's.
extension DestinationSession {
  /// Listens before it says so: whoever waits for the word starts the VMM, which connects once.
  func attach() {
    let door: AttachDoor
    do throws(AttachError) {
      door = AttachDoor(try AttachListener(path: configuration.attachPath))
    } catch {
      return refuse(Refusal(.vmm, "\(error)"))
    }
    let cancel = cancelSetup
    let frontEnd = configuration.frontEnd
    onSetup {
      do throws(AttachError) {
        guard let memory = try door.listener.attach(or: cancel) else {
          return .attachEnded(nil)
        }
        // As soon as the source hears of it, its guest may be paused.
        frontEnd.prepare()
        return .attached(AttachedVM(memory))
      } catch {
        return .attachEnded(Refusal(.vmm, "\(error)"))
      }
    }
    observer(.awaitingAttach(path: configuration.attachPath))
  }

  func onSetup(_ command: @escaping @Sendable () -> Input) {
    let inputs = inputs
    let isTaken = setupWorker.run { DestinationSession.tell(command(), inputs) }
    invariant(isTaken, "attaching and dialling come one after the other")
  }

  static func tell(_ input: Input, _ inputs: Mailbox<Input>) {
    invariant(inputs.post(input), "the session's mailbox has room for all that can be said")
  }

  /// The VMM is here: is it one that may be used?
  func attached(_ vm: AttachedVM) {
    do throws(Refusal) {
      try Self.requireKeeper(vm.memory.holding)
      try vm.memory.requireEmptyFile()
      try requireRoom(vm)
      let binding = try binding(of: vm)
      let decision = ReceiveDecision.decide(
        current: binding, histories: journal.histories, isAlive: { $0.vmm?.isAlive ?? false })
      if let refusal = decision.refusal(vmName: configuration.vmName.text) { throw refusal }
      self.binding = binding
      self.vm = vm
      regions = vm.layout.regions
    } catch {
      return refuse(error, vm)
    }
    handToKeeper(vm)
    observer(
      .attached(
        pid: vm.memory.process.identity.pid, regionCount: vm.layout.regions.count,
        pageCount: vm.layout.totalPageCount.rawValue))
    core.start(now: MonotonicClock.now(), into: &effects)
    carryOut()
    drain()
  }

  /// Should this process die, the next one gets them from there. Without them it takes the VMM's
  /// own duplicate, so a keeper that has no room is no reason to stop.
  func handToKeeper(_ vm: AttachedVM) {
    guard let keeper = configuration.keeper, keeper.inherited.isEmpty else { return }
    do {
      try keeper.keep(KeptName.userfault, vm.memory.userfault.duplicate())
      try keeper.keep(KeptName.vmm, vm.memory.process.descriptor)
    } catch {
      observer(.warning("the parent process keeps no duplicate of the userfaultfd: \(error)"))
    }
  }

  /// Ends a session whose VMM cannot be used. One that keeps no duplicate of its userfaultfd would
  /// read zeros as soon as ours is closed: it is ended first.
  private func refuse(_ reason: Refusal, _ vm: AttachedVM) {
    refuse(reason)
    guard case .notHeld = vm.memory.holding else { return }
    do throws(SystemError) {
      try vm.memory.process.kill()
      outcome?.destination = .killed
    } catch {
      observer(.warning("the VMM that attached must be ended by hand: \(error)"))
    }
  }

  /// If the last duplicate of a userfaultfd is closed, the kernel shows the guest zeros for every
  /// missing page. Somebody beside us has to keep one.
  private static func requireKeeper(_ holding: DuplicateHolding) throws(Refusal) {
    switch holding {
    case .held: return
    case .notHeld:
      throw Refusal(
        .unfit,
        "the VMM does not keep a duplicate of its userfaultfd: if this process died, the guest "
          + "would read zeros. Use a VMM that keeps it, as Firecracker does")
    case .unknown(let error):
      throw Refusal(
        .unfit,
        "it cannot be seen whether the VMM keeps a duplicate of its userfaultfd (\(error)): run "
          + "postcopyd as the VMM's user or with CAP_SYS_PTRACE")
    }
  }

  /// This host can hold the guest, before anything of it is touched: later, lack of memory makes
  /// its vCPUs wait.
  private func requireRoom(_ vm: AttachedVM, stagesSeeds: Bool = false) throws(Refusal) {
    var host = HostCapabilities.probe()
    if case .available = host.userfaultfd {
    } else {
      // The VMM made one where we may not: it has what it needs.
      host.userfaultfd = .available(UserfaultFeatures(rawValue: .max), throughDevice: true)
    }
    let findings = Preflight.destinationFindings(
      image: vm.layout,
      memory: vm.memory.memoryKinds.contains(.shared) ? .sharedMemory : .privateMemory, host: host,
      vmmGroupAvailable: Preflight.availableByteCount(
        inGroupOf: vm.memory.process.identity.pid), stagesSeeds: stagesSeeds,
      headroomByteCount: configuration.headroomByteCount)
    let refusals = Preflight.refusals(
      of: findings
        + Preflight.roomFindings(configuration.directory, pageCount: vm.layout.totalPageCount))
    guard let first = refusals.first else { return }
    throw Refusal(first.code, refusals.map(\.reason).joined(separator: "; "))
  }

  private func binding(of vm: AttachedVM) throws(Refusal) -> VMBinding {
    do throws(SystemError) {
      return VMBinding(
        vmName: configuration.vmName, boot: try BootID.current(),
        vmm: vm.memory.process.identity, memory: nil)
    } catch {
      throw Refusal(.unfit, "the VMM cannot be identified: \(error)")
    }
  }

  func makePlane(
    _ vm: AttachedVM, _ session: SessionID
  ) throws(Refusal) -> DestinationDataPlane {
    let states: MappedPageStates
    // Nobody had a reason to put anything there since it attached; where something is, no other
    // page may come beside it.
    try vm.memory.requireEmptyFile()
    let seeds = mode?.hasSeedRounds == true ? vm.memory.seedPlacement() : nil
    if let seeds {
      try requireRoom(vm, stagesSeeds: !seeds.isInPlace)
      observer(.seedsPlaced(seeds))
      seedPlacement = seeds
    }
    do throws(StateError) {
      try configuration.directory.prepare(session: session)
      preparedSession = session
    } catch { throw Refusal(.unfit, "\(error)") }
    try saveAttachment(vm, session, seedsInPlace: seeds?.isInPlace == true)
    do throws(PageStateFileError) {
      states = MappedPageStates(
        try PageStateFile.create(
          configuration.directory.pageStatePath(of: session), session: session,
          pageCount: vm.layout.totalPageCount))
    } catch { throw Refusal(.unfit, "\(error)") }
    return try startPlane(vm, PageLedger(fresh: states), session, seeds)
  }

  /// Before the first page: whoever takes the session up has to find the memory again.
  private func saveAttachment(
    _ vm: AttachedVM, _ session: SessionID, seedsInPlace: Bool
  ) throws(Refusal) {
    guard case .held(let number) = vm.memory.holding else { return }
    var saved = SavedAttachment(vm.memory, userfaultNumber: number)
    if seedsInPlace { saved.seedsInPlace = true }
    do throws(SystemError) {
      try saved.write(configuration.directory.attachmentPath(of: session))
    } catch { throw Refusal(.unfit, "\(error)") }
  }

  /// Starts the engine over what is known of each page.
  func startPlane(
    _ vm: AttachedVM, _ ledger: consuming PageLedger<MappedPageStates>, _ session: SessionID,
    _ seeds: SeedPlacement?
  ) throws(Refusal) -> DestinationDataPlane {
    do throws(DataPlaneError) {
      return try DestinationDataPlane(
        memory: vm.memory, ledger: ledger, session: session, seeds: seeds,
        heartbeatBudgetNanoseconds: configuration.heartbeatBudgetNanoseconds,
        faultPlacement: configuration.faultPlacement,
        bulkPlacement: configuration.bulkPlacement)
    } catch { throw Refusal(.unfit, "\(error)") }
  }
}
