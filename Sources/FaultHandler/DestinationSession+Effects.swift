internal import Migration
internal import Pages
internal import Session
internal import System
internal import VMM
internal import Wire

extension DestinationSession {
  /// Gives the core an event and carries out what it decides. Events that come of that are handled
  /// one after the other, never inside each other.
  func handle(_ event: DestinationEvent) {
    pending.append(event)
    drain()
  }

  /// Handles what waits; what comes up meanwhile is handled by the same loop.
  func drain() {
    guard !isDraining else { return }
    isDraining = true
    defer { isDraining = false }
    while !pending.isEmpty {
      let before = core.state
      let now = MonotonicClock.now()
      core.handle(pending.removeFirst(), now: now, into: &effects)
      if core.state != before {
        observer(.state(core.state))
        wakefulPause.note(isPaused: core.state.isHandOver, now: now)
      }
      carryOut()
    }
    if isRecovered, plane == nil { tellJournal() }
  }

  /// Carries out the effects of one event, in order.
  func carryOut() {
    while let effect = effects.next() { carryOut(effect) }
  }

  private func carryOut(_ effect: DestinationEffect) {
    switch effect {
    case .journal(let record): write(record)
    case .journalLazily(let record):
      // The core has said that losing it costs nothing.
      if let binding { try? journal.appendLazily(record, binding: binding) }
    case .dial: if plane != nil || !isRecovered { dial() }  // Else see `tellJournal`.
    case .discard(let pageCount):
      announcedDiscards = pageCount
      judgeDiscards()
    case .beginFaults:
      beginFaults()
      // Whoever waited when the earlier process died is known to nobody.
      if isRecovered { plane?.wakeEverybody() }
    case .loadDeviceState: loadDeviceState()
    case .runVM:
      runVM()
      plane?.installSeeds()
    case .killVM: killVM()
    case .unregister:
      unregister()
      // Not before: with nothing left to fetch all can be here before the VM has run, and the pause
      // has no time for it.
      askGuest()
    case .send(let message): send(message)
    case .disconnect(let refusal): disconnect(refusal)
    case .setTimer(let timer, let deadline): timers.set(timer, at: deadline)
    case .cancelTimer(let timer): timers.cancel(timer)
    case .refuseStop(let reason): refuseStop(reason)
    case .finish(let outcome):
      self.outcome = outcome
      // The VM is whole, or gone: nobody needs its userfaultfd any more.
      if outcome.ending != .parked { configuration.keeper?.release() }
    }
  }

  private func beginFaults() {
    do throws(DataPlaneError) {
      try plane?.startFaults()
    } catch {
      // Faults are answered all the same; what is staged would be installed only as it is touched.
      pending.append(
        .memoryFailed(Refusal(.unfit, "what was seeded cannot be installed: \(error)")))
    }
  }

  /// Both the announcement, on urgent, and the runs, on bulk, have to be here; they come in any
  /// order.
  func judgeDiscards() {
    guard let announced = announcedDiscards, let named = namedDiscards else { return }
    announcedDiscards = nil
    pending.append(
      announced == named
        ? .discardsApplied
        : .discardFailed(
          Refusal(
            .protocolViolation,
            "the source announced \(announced.rawValue) stale pages and named "
              + "\(named.rawValue)")))
  }

  private func write(_ record: DestinationRecord) {
    guard let binding else { invariantBroken("a destination journals once a VMM has attached") }
    do throws(JournalError) {
      try journal.append(record, binding: binding)
      pending.append(.journal(.durable(record)))
    } catch {
      pending.append(
        .journal(
          .failed(
            record, mayBeDurable: error.recordMayBeDurable, Refusal(.journal, "\(error)"))))
    }
  }

  private func send(_ message: ControlMessage) {
    // A queue that is full belongs to a link that is dying: its loss is told by itself.
    _ = plane?.send(message)
  }

  private func disconnect(_ refusal: Refusal) {
    guard isLinkUp else { return }
    isLinkUp = false
    plane?.dropLink(telling: refusal)
    linkLostAt = MonotonicClock.now()
    pending.append(.linkDown(isFinal: false, refusal))
    observer(.lost(refusal))
    dial()
  }

  /// Every page is here: the kernel needs us no more.
  private func unregister() {
    do throws(DataPlaneError) {
      try plane?.unregister()
    } catch {
      // COMPLETE is durable, so nothing is awaited.
      invariantBroken("memory is unregistered once every page is here")
    }
  }
}

// What the VMM is asked to do, on its own thread: loading state waits for pages.
extension DestinationSession {
  private func onVMM(_ command: @escaping @Sendable () -> DestinationVMMEvent) {
    let inputs = inputs
    let isTaken = vmmWorker.run { DestinationSession.tell(.core(.vmm(command())), inputs) }
    invariant(isTaken, "the core asks one thing of the VMM at a time")
  }

  private func loadDeviceState() {
    let frontEnd = configuration.frontEnd
    let state = deviceState
    deviceState = []
    onVMM {
      do throws(VMMError) {
        try frontEnd.loadDeviceState(state)
        return .loaded
      } catch {
        return .loadFailed(Refusal(.vmm, "\(error)"))
      }
    }
  }

  private func runVM() {
    let frontEnd = configuration.frontEnd
    let inputs = inputs
    onVMM {
      do throws(VMMError) {
        try frontEnd.run()
        let now = MonotonicClock.now()
        let status = try? frontEnd.status()
        if let status { DestinationSession.tell(.guest(status, isAtStart: true), inputs) }
        return .running(since: now)
      } catch {
        let isShown = error.isCertainlyWithoutEffect && Self.isShownNotRunning(frontEnd)
        return .runRefused(isShownNotRunning: isShown, Refusal(.vmm, "\(error)"))
      }
    }
  }

  /// A refusal alone proves nothing: the VMM's own state has to say that no vCPU ran.
  private static func isShownNotRunning(_ frontEnd: any VMMFrontEnd) -> Bool {
    guard let status = try? frontEnd.status() else { return false }
    switch status.state {
    case .incoming, .paused: return true
    case .running, .pausing, .finished, .guestError, .disabled, .none: return false
    }
  }

  /// The process that gave its memory is ended by its pidfd: no other proof is as good, and no VMM
  /// has to answer for it. On a thread of its own: a load that waits for a page which never comes
  /// keeps the VMM's thread, and it is the kill that ends the load.
  private func killVM() {
    guard let vm else {
      invariant(isRecovered, "only a VMM that has attached can be killed")
      // Gone before this process came.
      return pending.append(.vmm(.killed))
    }
    let inputs = inputs
    let isTaken = killWorker.run {
      DestinationSession.tell(.core(.vmm(Self.kill(vm.memory.process))), inputs)
    }
    invariant(isTaken, "the core has a VMM killed once")
  }

  private static func kill(_ process: borrowing ProcessHandle) -> DestinationVMMEvent {
    do throws(SystemError) {
      try process.kill()
    } catch {
      return .killFailed(Refusal(.vmm, "the VMM cannot be ended: \(error)"))
    }
    let deadline = MonotonicClock.now().advanced(byNanoseconds: killNanoseconds)
    guard process.waitUntilEnded(deadline: deadline) else {
      return .killFailed(Refusal(.vmm, "the VMM's process does not end"))
    }
    return .killed
  }

  /// Above the time that the kernel needs to give back the memory of a large VM.
  private static let killNanoseconds: UInt64 = 30_000_000_000

  /// What the guest has done by now; asked on the VMM's thread, told later.
  func askGuest() {
    let frontEnd = configuration.frontEnd
    let inputs = inputs
    _ = vmmWorker.run {
      if let status = try? frontEnd.status() {
        DestinationSession.tell(.guest(status, isAtStart: false), inputs)
      }
    }
  }
}
