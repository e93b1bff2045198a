internal import Migration
internal import Wire

/// A vCPU at the destination: it acts, waits for a page, or waits in madvise.
struct SimulatedVCPU {
  /// The page that it faulted on; it tries again when it is woken.
  var pendingPage: Int?
  var isPendingWrite = false
  /// When it touched that page first.
  var pendingSince: UInt64 = 0
  /// How often it has acted in liveness mode: it soon idles, so that the push has to do its work.
  var tailActCount = 0
  /// It found no page but does not wait yet: a fill in this moment cannot wake it.
  var isQueueing = false
  /// The range that it is giving back.
  var removal: Range<Int>?
  /// What the loading VMM has still to read.
  var loadList: [Int] = []
  var loadLife = 0
  var isLoading = false
  /// It acts once at a time, however often it is woken.
  var isScheduled = false
}

/// The guest: reads, writes and gives back pages wherever it runs, and knows what it must see.
extension World {
  private static let tailActCount = 6

  mutating func scheduleSourceGuest() {
    guard !isSourceGuestScheduled else { return }
    isSourceGuestScheduled = true
    schedule(.sourceGuestActs, within: 20_000..<200_000)
  }

  mutating func sourceGuestActs() {
    isSourceGuestScheduled = false
    guard sourceVMM.isRunning else { return }
    let page = random.number(in: 0..<plan.pageCount)
    if sourceMemory[page] != oracle[page] {
      violate("P1", "the source guest reads page \(page) that was written elsewhere")
    }
    if sourceMemory[page] != SimulatedMemory.poison {
      sourceMemory[page] = nextVersion
      oracle[page] = nextVersion
      nextVersion += 1
    }
    // In the tail nobody needs its writes, only its being there.
    if !hasHealed { scheduleSourceGuest() }
  }

  mutating func scheduleVCPU(_ vcpu: Int) {
    guard !vcpus[vcpu].isScheduled else { return }
    vcpus[vcpu].isScheduled = true
    if hasHealed && vcpu != loader && vcpus[vcpu].pendingPage == nil {
      vcpus[vcpu].tailActCount += 1
      if vcpus[vcpu].tailActCount > Self.tailActCount {
        return vcpus[vcpu].isScheduled = false
      }
      schedule(.vcpuActs(vcpu), within: 500_000..<1_500_000)
    } else {
      schedule(.vcpuActs(vcpu), within: 10_000..<150_000)
    }
  }

  mutating func vcpuActs(_ vcpu: Int) {
    vcpus[vcpu].isScheduled = false
    if vcpu == loader { return loaderActs() }
    guard destinationVMM.isRunning, vcpus[vcpu].removal == nil else { return }
    if let page = vcpus[vcpu].pendingPage {
      touch(page, by: vcpu, isWrite: vcpus[vcpu].isPendingWrite)
    } else if random.chance(perMille: plan[.removal]) {
      beginRemoval(by: vcpu)
    } else {
      let page = random.number(in: 0..<plan.pageCount)
      if isBeingRemoved[page] { return scheduleVCPU(vcpu) }
      touch(page, by: vcpu, isWrite: random.chance(perMille: 400))
    }
  }

  /// One access of a vCPU or of the loading VMM. True when the page was there.
  @discardableResult
  private mutating func touch(_ page: Int, by vcpu: Int, isWrite: Bool) -> Bool {
    guard let version = memory.versions[page] ?? (memory.isRegistered ? nil : 0) else {
      if vcpus[vcpu].pendingPage != page { vcpus[vcpu].pendingSince = nanoseconds }
      vcpus[vcpu].pendingPage = page
      vcpus[vcpu].isPendingWrite = isWrite
      vcpus[vcpu].isQueueing = true
      schedule(.faultQueues(vcpu: vcpu, page: page), within: 100..<40_000)
      return false
    }
    vcpus[vcpu].pendingPage = nil
    // While a page is being given back, a racing access sees the old content or zeros.
    // And a VMM that loads what the source has taken back will never run.
    let isVoid = vcpu == loader && hasSourceResumed
    if version != oracle[page] && !isBeingRemoved[page] && !isVoid {
      violate(
        "P3", "page \(page) reads as version \(version), the VM's memory has \(oracle[page])")
    }
    if isWrite && version != SimulatedMemory.poison {
      memory.write(page, nextVersion)
      oracle[page] = nextVersion
      nextVersion += 1
    }
    if vcpu != loader { scheduleVCPU(vcpu) }
    return true
  }

  /// The kernel found the page absent a moment ago and now puts the fault on the queue, whatever
  /// has been filled meanwhile (trap 3).
  mutating func queueFault(_ vcpu: Int, page: Int) {
    guard vcpus[vcpu].isQueueing, vcpus[vcpu].pendingPage == page else { return }
    vcpus[vcpu].isQueueing = false
    guard memory.isRegistered else { return scheduleVCPU(vcpu) }
    memory.unreadFaults.append(page)
    if isTroubled(.redelivery) { memory.unreadFaults.append(page) }
    scheduleHandler()
  }

  /// Loading device state reads guest memory: its faults are demands like any other.
  private mutating func loaderActs() {
    guard vcpus[loader].isLoading, !destinationVMM.isGone else { return }
    if let page = vcpus[loader].pendingPage ?? vcpus[loader].loadList.last {
      guard touch(page, by: loader, isWrite: false) else { return }
      if vcpus[loader].loadList.last == page { vcpus[loader].loadList.removeLast() }
      return scheduleVCPU(loader)
    }
    vcpus[loader].isLoading = false
    let fails = isTroubled(.vmm) || takeScripted(.command(.load)) == .refused
    schedule(
      .destinationHears(
        .vmm(fails ? .loadFailed(Refusal(.vmm, "the device state does not fit")) : .loaded),
        life: vcpus[loader].loadLife), within: 1_000..<20_000)
  }

  /// Balloon or free-page reporting; on shared memory sometimes a punched hole, without any event.
  private mutating func beginRemoval(by vcpu: Int) {
    let start = random.number(in: 0..<plan.pageCount)
    let end = min(plan.pageCount, start + random.number(in: 1..<4))
    for page in start..<end where isBeingRemoved[page] { return scheduleVCPU(vcpu) }
    if plan.memory == .shared && random.chance(perMille: 500) {
      // Trap 6: only a page known to be here can be punched out and told from a missing one.
      for page in start..<end where isRecordedPresent(page) && memory.versions[page] != nil {
        memory.drop(page)
        oracle[page] = 0
      }
      return scheduleVCPU(vcpu)
    }
    for page in start..<end { isBeingRemoved[page] = true }
    vcpus[vcpu].removal = start..<end
    if memory.isRegistered {
      memory.unreadRemovals.append((start..<end, vcpu))
      scheduleHandler()
    } else {
      schedule(.zap(vcpu: vcpu), within: 1_000..<20_000)
    }
  }

  private func isRecordedPresent(_ page: Int) -> Bool {
    if let ledger { return ledger[page] == .present }
    return recordedStates.map { $0[page] == PageState.present.rawValue } ?? false
  }

  mutating func zap(_ vcpu: Int) {
    guard let range = vcpus[vcpu].removal else { return }
    for page in range {
      isBeingRemoved[page] = false
      guard plan.memory == .privateAnonymous else { continue }
      memory.drop(page)
      oracle[page] = 0
    }
    vcpus[vcpu].removal = nil
    scheduleVCPU(vcpu)
  }

  /// Lets go whoever waited for a page that was filled or woken; they try again.
  mutating func releaseWoken() {
    guard !memory.wokenPages.isEmpty else { return }
    for vcpu in vcpus.indices {
      guard let page = vcpus[vcpu].pendingPage, !vcpus[vcpu].isQueueing,
        memory.wokenPages.contains(page)
      else { continue }
      scheduleVCPU(vcpu)
    }
    memory.wokenPages.removeAll(keepingCapacity: true)
  }
}
