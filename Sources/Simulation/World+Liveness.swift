internal import Migration
internal import Wire

/// Liveness mode: both hosts are healthy (or one is gone for good and known to be), the network is
/// stable, nothing new goes wrong. Everything must come to an end, and every fault be resolved.
extension World {
  /// Above a verdict on a dead link, which on one that has just come up waits for the first word, a
  /// redial, the wait for a supervisor, and the page itself.
  static let faultNanoseconds: UInt64 = 160_000_000

  mutating func heal() {
    hasHealed = true
    plan.heal()
    acceptsLinks = [true, true]
    // What is silent is found out by heartbeats; what is on its way late still comes late.
    network.endPartitions()
    if !isSupervised { schedule(.trouble(.supervise), within: 1_000_000..<2_000_000) }
  }

  /// What an operator or a service manager does: starts again what has stopped short of an end.
  mutating func supervise() {
    isSupervised = true
    schedule(.trouble(.supervise), within: 4_000_000..<5_000_000)
    checkFaults()
    if isDestinationDestroyed && !hosts[1].isDone { return superviseAlone() }
    if hasDestinationVMDied, hosts[1].outcome?.ending == .parked,
      hosts[1].outcome?.destination == .killed
    {
      // It had been let run, or nobody can rule that out. P1 has been checked all along, and there
      // is nothing left to converge to.
      fate = .died
      return
    }
    if hosts[0].isDone && hosts[1].isDone { return judgeSoon() }
    for side in Side.allCases {
      if !hosts[side.rawValue].isAlive && !hosts[side.rawValue].isDone { restart(side) }
    }
    if hosts[0].isDone, hosts[1].isAlive, destinationCore.state == .dialing {
      feedDestination(.operatorAbort)
    }
    guard hosts[1].isDone, hosts[0].isAlive else { return }
    if DestinationCore(recovering: destinationJournal.records, vm: .gone) == nil {
      feedSource(.operatorAbort)
    } else if hosts[0].connection == nil {
      // The source still needs a word of the destination: its journal says it again.
      hosts[1].outcome = nil
      restart(.destination)
    }
  }

  /// One more round: whoever still waits for a page then waits for ever.
  private mutating func judgeSoon() {
    quietSuperviseCount += 1
    if quietSuperviseCount > 1 { judge() }
  }

  /// The destination's host is gone and everybody knows it.
  private mutating func superviseAlone() {
    if hosts[0].isDone { return judgeSoon() }
    guard hosts[0].isAlive else {
      if sourceVMM.isGone || hasPeerRunOnRecord { return fate = .died }
      if !fence() { restart(.source) }
      return
    }
    switch sourceCore.state {
    case .handedOff, .revoking: feedSource(.operatorPark)
    // The VM ran there for sure, so it is gone with its host.
    case .serving: fate = .died
    case .preparing, .seeding: feedSource(.operatorAbort)
    case .opening, .pausing, .frozen, .saving, .saved, .preparedUnsaved, .handingOff, .completing,
      .lingering, .recordingResume, .resuming, .awaitingAborted, .finished:
      break
    }
  }

  private var hasPeerRunOnRecord: Bool {
    sourceJournal.records.contains {
      switch $0 {
      case .ranAcknowledged, .completed: true
      case .opened, .handedOff, .resumed, .fenced, .aborted: false
      }
    }
  }

  /// P6: in liveness mode no vCPU waits long, whatever the rest of the session does.
  private mutating func checkFaults() {
    guard destinationVMM.isRunning else { return }
    for vcpu in vcpus.prefix(plan.vcpuCount) {
      guard let page = vcpu.pendingPage else { continue }
      let since = max(vcpu.pendingSince, plan.healNanoseconds)
      if nanoseconds > since + Self.faultNanoseconds {
        violate("P6", "a vCPU has waited for page \(page) since \(vcpu.pendingSince) ns")
      }
    }
  }

  /// Both sides have ended: the VM must be in one place, whole, with nobody waiting.
  private mutating func judge() {
    if vcpus.prefix(plan.vcpuCount).contains(where: { $0.pendingPage != nil || $0.removal != nil })
      && destinationVMM.isRunning
    {
      return violate("P6", "a vCPU still waits")
    }
    if destinationVMM.isRunning {
      guard hosts[0].outcome?.ending == .completed, hosts[1].outcome?.ending == .completed else {
        return violate("P6", "the VM runs at the destination but a side did not complete")
      }
      for page in 0..<plan.pageCount
      where (memory.versions[page] ?? 0) != oracle[page] && !isBeingRemoved[page] {
        return violate("P4", "page \(page) is not the VM's in the end")
      }
      fate = .moved
    } else if sourceVMM.isRunning {
      for page in 0..<plan.pageCount where sourceMemory[page] != oracle[page] {
        return violate("P2", "page \(page) of the source is not the VM's in the end")
      }
      fate = .stayed
    } else if hasDestinationVMDied && (hasDestinationRun || isDestinationDestroyed) {
      fate = .died
    } else {
      violate("P6", "the VM runs nowhere")
    }
  }
}
