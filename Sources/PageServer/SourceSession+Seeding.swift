internal import Migration
internal import Pages
internal import Session
internal import System
internal import VMM
internal import Wire

// Rounds of seeds, on a thread of their own: a round lasts as long as the link takes for it.
extension SourceSession {
  /// Begins the rounds, or goes on with them over a new link.
  func beginSeeding() {
    guard let plane, let layout = admission.layout else {
      invariantBroken("rounds begin with a destination")
    }
    let seeder: Seeder
    if let known = self.seeder {
      seeder = known
    } else {
      do throws(Refusal) { seeder = try makeSeeder(layout) } catch {
        return pending.append(.seedingFailed(error))
      }
      self.seeder = seeder
    }
    if isSwitchTold { seeder.switchOver() }
    guard seeder.layout == layout else {
      let reason = Refusal(.layout, "the destination came back with another memory layout")
      return pending.append(.seedingFailed(reason))
    }
    // The run over the last link ends with it; this one waits behind it. More than a few wait only
    // for a VMM that does not answer.
    guard openSeedRunCount < Self.maximumSeedRunCount else {
      let reason = Refusal(.vmm, "the VMM does not answer, and links come and go meanwhile")
      return pending.append(.seedingFailed(reason))
    }
    openSeedRunCount += 1
    seedRun += 1
    let run = seedRun
    let inputs = inputs
    let lookPause = lookPause
    let isTaken = seedWorker.run {
      let end: SeedRunEnd
      do throws(VMMError) {
        end = try seeder.run(over: plane) { note in
          // Told to whoever watches: nothing depends on it.
          _ = inputs.post(.seedRound(note), leaving: Self.inputCapacity / 2)
        }
      } catch {
        end = .failed(Refusal(.vmm, "\(error)"))
      }
      // Known here alone: a later run may be in the middle of a look when this is heard.
      let isLeftPaused = lookPause.owesResume
      SourceSession.tell(.seedRunEnded(run: run, end, isLeftPaused: isLeftPaused), inputs)
    }
    invariant(isTaken, "there is room for so many runs, and for the end of the log")
  }

  private func makeSeeder(_ layout: ImageLayout) throws(Refusal) -> Seeder {
    let log: ChosenLog?
    do throws(SystemError) {
      log = try ChosenLog.make(
        configuration, backing, layout, processID: binding.vmm?.pid, seeds: sentSeeds,
        pause: lookPause)
    } catch {
      throw Refusal(.unfit, "the VM's writes cannot be watched: \(error)")
    }
    guard let log else {
      throw Refusal(
        .unfit,
        "dirty tracking by \(configuration.tracking.rawValue) cannot be had for this VM: use "
          + "--dirty-tracking auto, or --mode post-copy")
    }
    let inputs = inputs
    let throttle = throttle.map {
      GuestThrottle($0, maximumPercent: configuration.maximumThrottlePercent) { problem in
        _ = inputs.post(.throttleProblem(problem), leaving: Self.inputCapacity / 4)
      }
    }
    return Seeder(
      layout: layout, log: log, limits: configuration.switchLimits,
      tracking: { log.tracking }, seeds: sentSeeds, throttle: throttle, pause: lookPause)
  }

  static let leftPaused = Refusal(
    .vmm,
    "the VM was paused for a look at what it writes, or by an earlier process, and could not be "
      + "resumed")

  /// Runs that may wait for each other.
  private static let maximumSeedRunCount = 8

  /// The run that was begun last has no other beside it once it has ended: what one says that was
  /// begun over an earlier link is void.
  func seedRunEnded(_ run: UInt64, _ end: SeedRunEnd, isLeftPaused: Bool) {
    openSeedRunCount -= 1
    guard run == seedRun else { return }
    if isLeftPaused {
      let reason: Refusal
      if case .failed(let failure) = end { reason = failure } else { reason = Self.leftPaused }
      return handle(SourceEvent.seedingLeftPaused(reason))
    }
    switch end {
    case .decided(let reason): handle(SourceEvent.seeded(reason))
    // The order was taken a moment too late for the seeder, and is carried out all the same.
    case .staying where isSwitchTold: handle(SourceEvent.seeded(.told))
    case .staying(let reason):
      handle(
        SourceEvent.seedingFailed(
          Refusal(
            .limit,
            "the VM could not be moved within its limits (\(reason.rawValue)): what is left "
              + "takes longer than the downtime that it may have. Allow more rounds, time or "
              + "downtime, or move it by --mode hybrid or with --at-limit switch")))
    case .linkLost: break
    case .unanswered:
      giveLinkUp(
        Refusal(.timeout, "the destination has not taken in what it was sent, for a minute"))
    case .failed(let reason): handle(SourceEvent.seedingFailed(reason))
    }
  }

  /// An operator wants the VM switched over, whatever is left to send; nil when it will be.
  func switchOver() -> Refusal? {
    guard core.mode.hasSeedRounds else {
      return Refusal(
        .operatorRequest,
        "mode \(core.mode.name) has no rounds that could be ended: it switches by itself")
    }
    switch core.state {
    case .opening, .preparing, .seeding:
      isSwitchTold = true
      seeder?.switchOver()
      return nil
    case .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff:
      return Refusal(.operatorRequest, "the switch is under way already")
    case .handedOff, .serving, .completing, .lingering:
      return Refusal(.operatorRequest, "the VM has been switched over already")
    case .revoking, .recordingResume, .resuming, .awaitingAborted, .finished:
      return Refusal(.operatorRequest, "the migration is over, or has been given up")
    }
  }

  /// Ends the rounds, and lets nobody watch what the VM writes. Also for an earlier process's log.
  func endSeeding() {
    seeder?.cancel()
    // Behind whatever the rounds ask of the log.
    _ = seedWorker.run(logStop())
    if let seeder { _ = seedWorker.run { seeder.forgetSeeds() } }
  }

  /// Ends the log of writes, also that of an earlier process. A VMM that does not answer goes on
  /// watching, which costs its guest a little.
  func logStop() -> SerialWorker.Command {
    if let seeder { return { seeder.stopLog() } }
    guard core.mode.hasSeedRounds, let log = configuration.frontEnd.dirtyLog else { return {} }
    return { try? log.stopDirtyLog() }
  }
}
