internal import Migration
internal import Pages
internal import Session
internal import System
internal import VMM
internal import Wire

extension SourceSession {
  /// Gives the core an event and carries out what it decides. Events that come of that are handled
  /// one after the other, never inside each other.
  func handle(_ event: SourceEvent) {
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
  }

  /// Carries out the effects of one event, in order.
  func carryOut() {
    while let effect = effects.next() { carryOut(effect) }
  }

  private func carryOut(_ effect: SourceEffect) {
    switch effect {
    case .journal(let record): write(record)
    case .journalLazily(let record):
      // The core has said that losing it costs nothing.
      try? journal.appendLazily(record, binding: binding)
    case .listen: openDoor()
    case .beginSeeding: beginSeeding()
    case .endSeeding: endSeeding()
    case .pauseVM: pauseVM()
    case .resumeVM: resumeVM()
    case .saveDeviceState: saveDeviceState()
    case .disableVM: disableVM()
    case .beginServing:
      isServing = true
      plane?.beginServing()
    case .endServing, .releaseMemory:
      isServing = false
      plane?.endServing()
    case .beginPush:
      isPushing = true
      plane?.beginPush()
    case .send(let message): send(message)
    case .disconnect(let refusal): disconnect(refusal)
    case .setTimer(let timer, let deadline): timers.set(timer, at: deadline)
    case .cancelTimer(let timer): timers.cancel(timer)
    case .refuseStop(let reason): refuseStop(reason)
    case .finish(let outcome): self.outcome = outcome
    }
  }

  private func write(_ record: SourceRecord) {
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

  func send(_ message: ControlMessage) {
    // A queue that is full belongs to a link that is dying: its loss is told by itself.
    _ = plane?.send(message)
  }

  private func disconnect(_ refusal: Refusal) {
    plane?.stop(telling: refusal)
    plane = nil
    admission.clientLeft(mustReturn: true)
    linkLostAt = MonotonicClock.now()
    pending.append(.linkDown(isFinal: false, refusal))
  }
}

// What the VMM is asked to do, on its own thread: any of it can block.
extension SourceSession {
  private func onVMM(_ command: @escaping @Sendable () -> SourceVMMEvent) {
    let inputs = inputs
    let isTaken = vmmWorker.run { SourceSession.tell(.core(.vmm(command())), inputs) }
    invariant(isTaken, "the core asks one thing of the VMM at a time")
  }

  static func tell(_ input: Input, _ inputs: Mailbox<Input>) {
    invariant(inputs.post(input), "the session's mailbox has room for all that can be said")
  }

  private func pauseVM() {
    // They pause the VM themselves, for a look.
    invariant(openSeedRunCount == 0, "the rounds have returned before the VM is handed over")
    let frontEnd = configuration.frontEnd
    let backing = backing
    let seeder = seeder
    let plane = plane
    let seedWorker = seedWorker
    let lookPause = lookPause
    onVMM {
      var discardPageCount = PageCount.zero
      var scanNanoseconds: UInt64 = 0
      do throws(VMMError) {
        // What a VMM has not answered could let the VM run behind the hand-over.
        try lookPause.requireCertainty()
        try frontEnd.pause()
        if let seeder, let plane {
          let start = MonotonicClock.now()
          let final = try seeder.finish()
          // The VMM has all of its time for the device state.
          _ = seedWorker.run { seeder.releaseGuest() }
          plane.discard(final.stale, keeping: final.fresh)
          discardPageCount = PageCount(final.stale.setCount)
          scanNanoseconds = MonotonicClock.now().nanoseconds(since: start)
        }
      } catch {
        return .pauseFailed(Refusal(.vmm, "\(error)"))
      }
      do throws(MemoryError) {
        try backing.markFrozen()
        return .paused(discardPageCount: discardPageCount, scanNanoseconds: scanNanoseconds)
      } catch {
        return .pauseFailed(Refusal(.memory, "\(error)"))
      }
    }
  }

  private func resumeVM() {
    let lookPause = lookPause
    let seedWorker = seedWorker
    let stopLog = logStop()
    onVMM {
      // Whoever resumes it where we cannot finds it unwatched. Before that is told, which may end
      // the session.
      defer { _ = seedWorker.run(stopLog) }
      do throws(VMMError) {
        try lookPause.resume()
        return .resumed
      } catch {
        return .resumeFailed(Refusal(.vmm, "\(error)"))
      }
    }
  }

  /// An earlier process died between pausing the VM and handing it over, or for a look: it is to
  /// run.
  func resumeInterrupted() {
    let frontEnd = configuration.frontEnd
    let lookPause = lookPause
    // Rounds may pause it, so that it is resumed ahead of them.
    let worker = core.mode.hasSeedRounds ? seedWorker : vmmWorker
    _ = worker.run {
      // A VM that was not paused answers that it runs.
      do throws(VMMError) { try lookPause.resume() } catch { lookPause.oweResume() }
    }
    // It may be watched still. Before any round of ours.
    if let log = frontEnd.dirtyLog { _ = seedWorker.run { try? log.stopDirtyLog() } }
  }

  private func saveDeviceState() {
    let frontEnd = configuration.frontEnd
    guard let plane else {
      pending.append(
        .vmm(.deviceStateSaveFailed(Refusal(.internalError, "there is nobody to send it to"))))
      return
    }
    onVMM {
      do throws(VMMError) {
        let state = try frontEnd.saveDeviceState()
        guard state.count <= WireLimits.maximumDeviceStateByteCount else {
          return .deviceStateSaveFailed(
            Refusal(.vmm, "the device state has \(state.count) bytes, more than can be sent"))
        }
        plane.sendDeviceState(state)
        return .deviceStateSaved
      } catch {
        return .deviceStateSaveFailed(Refusal(.vmm, "\(error)"))
      }
    }
    noteGuest()
  }

  /// How far the guest has come, for the report. Behind the device state, since the guest stands
  /// still meanwhile; nothing depends on it.
  private func noteGuest() {
    let frontEnd = configuration.frontEnd
    let inputs = inputs
    _ = vmmWorker.run {
      guard let status = try? frontEnd.status() else { return }
      SourceSession.tell(.guest(status), inputs)
    }
  }

  private func disableVM() {
    let frontEnd = configuration.frontEnd
    let seedWorker = seedWorker
    let stopLog = logStop()
    if let seeder { _ = seedWorker.run { seeder.forgetSeeds() } }
    onVMM {
      // Only now: it takes a VMM milliseconds, which were the guest's while it stood still.
      defer { _ = seedWorker.run(stopLog) }
      do throws(VMMError) {
        try frontEnd.disable()
        return .disabled
      } catch {
        return .disableFailed(Refusal(.vmm, "\(error)"))
      }
    }
  }
}
