internal import CGuestProgram
internal import Glibc
internal import Pages
internal import System
internal import UFFD

/// The life of the guest: what the control socket's verbs do.
extension TestMachine {
  /// Stops all vCPUs and lets the disk's reads complete, waiting at most that long. After `timeout`
  /// they still stop by themselves, as soon as the pages they wait for arrive.
  public func pause(timeoutMilliseconds: UInt64) throws(ControlFailure) {
    try require([.running, .pausing, .paused, .finished], for: "pause")
    engine.gate.ask(.park)
    try waitUntilParked(timeoutMilliseconds)
  }

  /// Lets the vCPUs run, or run on.
  public func resume() throws(ControlFailure) {
    try require([.paused, .pausing, .running, .finished], for: "run")
    try state.withLock { state throws(ControlFailure) in
      if let holder = state.heldBy {
        throw ControlFailure(.badState, "the guest must stay stopped until \(holder) is done")
      }
      // Under the lock, so that a disable cannot come between the look and the start.
      guard !state.isDisabled else { throw ControlFailure(.badState, "the guest is disabled") }
      engine.gate.ask(.run)
    }
  }

  /// The state of all vCPUs, in bytes.
  public func saveState() throws(ControlFailure) -> [UInt8] {
    try whileStopped("save-state", in: [.paused, .finished]) { () throws(ControlFailure) in
      var blob = StateBlob(
        kind: engine.blobKind, vcpuCount: layout.vcpuCount, pageSize: options.pageSize.rawValue,
        memoryByteCount: layout.byteCount, seed: layout.seed)
      do throws(SystemError) {
        blob.sections = try engine.save()
      } catch {
        throw ControlFailure(.failed, "\(error)")
      }
      saveDisk(into: &blob)
      return blob.encoded()
    }
  }

  /// Takes over the state of another guest of the same shape, whose memory this one has or gets.
  ///
  /// Like a device model's load it reads guest memory: the header and each vCPU's page must be
  /// those of the guest whose state this is. With missing pages that waits for the handler.
  public func loadState(_ bytes: [UInt8]) throws(ControlFailure) {
    try whileStopped("load-state", in: [.incoming]) { () throws(ControlFailure) in
      do throws(StateBlobError) {
        let blob = try StateBlob(decoding: bytes)
        try checkOwner(of: blob)
        try checkDisk(of: blob)
        try engine.load(blob)
      } catch {
        throw ControlFailure(.failed, "\(error)")
      }
      state.withLock { $0.hasVcpuState = true }
    }
  }

  /// Ends the vCPU threads for ever and keeps the memory. Not undone by a time-out.
  public func disable(timeoutMilliseconds: UInt64) throws(ControlFailure) {
    state.withLock { state in
      state.isDisabled = true
      engine.gate.ask(.leave)
    }
    let deadline = Self.deadline(timeoutMilliseconds)
    let haveLeft = engine.gate.state.wait(until: deadline) { gate in
      gate.hasLeft.allSatisfy(\.self) ? true : nil
    }
    guard haveLeft == true else {
      throw stuck(
        "\(timeoutMilliseconds) ms were not enough to end all vCPUs; they never run again")
    }
  }

  /// Asks the guest to give the granules of `count` data pages back when it next runs.
  public func remove(page: Int, count: Int) throws(ControlFailure) {
    guard activity != .incoming else { throw ControlFailure(.badState, "no vCPU state yet") }
    let unit = layout.pagesPerGranule
    guard page >= 0, count > 0, page % unit == 0, count % unit == 0, count <= layout.pageCount,
      page <= layout.pageCount - count
    else {
      throw ControlFailure(
        .badRequest, "remove takes whole granules of \(unit) of the \(layout.pageCount) data pages")
    }
    let granules = page / unit..<(page + count) / unit
    for vcpu in 0..<layout.vcpuCount {
      let words = layout.offset(ofVcpu: vcpu)
      let (cursor, end) = (words + UInt64(VCPU_BALLOON_CURSOR), words + UInt64(VCPU_BALLOON_END))
      guard memory.word(at: cursor) >= memory.word(at: end) else {
        throw ControlFailure(.badState, "vCPU \(vcpu) still works on the remove before")
      }
    }
    for vcpu in 0..<layout.vcpuCount {
      let words = layout.offset(ofVcpu: vcpu)
      // Granules are dealt in turn. Rounded up: the first of this vCPU at or after each bound.
      let first = (granules.lowerBound - vcpu + layout.vcpuCount - 1) / layout.vcpuCount
      let end = (granules.upperBound - vcpu + layout.vcpuCount - 1) / layout.vcpuCount
      // The guest acts on cursor < end: empty the range before it gets its new bounds.
      memory.setWord(at: words + UInt64(VCPU_BALLOON_END), to: 0)
      memory.setWord(at: words + UInt64(VCPU_BALLOON_CURSOR), to: UInt64(max(first, 0)))
      memory.setWord(at: words + UInt64(VCPU_BALLOON_END), to: UInt64(max(end, 0)))
      // Afterwards: a fetch in between would take the note and miss the change.
      (engine as? KvmMachine)?.dirtyLog.noteOwnChange(offset: words, byteCount: 4096)
    }
  }

  /// Hands the memory to a fault handler.
  public func attach(path: String, dialect: AttachDialect) throws(ControlFailure) {
    try whileStopped("attach", in: [.incoming]) { () throws(ControlFailure) in
      guard state.withLock({ $0.attachment == nil }) else {
        throw ControlFailure(.badState, "a handler has the memory already")
      }
      let attachment: HandlerAttachment
      do throws(AttachmentError) {
        attachment = try HandlerAttachment(memory, path: path, dialect: dialect)
      } catch {
        throw ControlFailure(.failed, "\(error)")
      }
      state.withLock { $0.attachment = attachment }
    }
  }

  /// Takes a share of their time from the vCPUs, 0 to 99 percent, for so long at most.
  public func throttle(percent: Int, milliseconds: UInt64) throws(ControlFailure) {
    guard (0...99).contains(percent) else {
      throw ControlFailure(.badRequest, "a throttle takes 0 to 99 percent of the guest's time")
    }
    do throws(SystemError) {
      try throttle.set(percent: percent, until: Self.deadline(milliseconds))
    } catch { throw ControlFailure(.failed, "\(error)") }
  }

  /// Has the kernel note what is written, from now on; or no more. What it had noted is lost.
  public func trackWrites(_ isTracked: Bool) throws(ControlFailure) {
    // Memory has one userfaultfd at a time: the one before goes first.
    state.withLock { $0.writeRegistration = nil }
    guard isTracked else { return }
    do throws(UFFDError) {
      let registration = try WriteRegistration(memory)
      state.withLock { $0.writeRegistration = registration }
    } catch {
      throw ControlFailure(.failed, "\(error)")
    }
  }

  // MARK: - Rules

  func require(_ allowed: [Activity], for verb: String) throws(ControlFailure) {
    let now = activity
    guard allowed.contains(now) else {
      throw ControlFailure(.badState, "\(verb) is not possible: the guest is \(now.rawValue)")
    }
  }

  /// Runs `body` while the guest cannot be started.
  func whileStopped<Result>(
    _ verb: String, in allowed: [Activity], _ body: () throws(ControlFailure) -> Result
  ) throws(ControlFailure) -> Result {
    try state.withLock { state throws(ControlFailure) in
      if let holder = state.heldBy {
        throw ControlFailure(.badState, "\(verb) has to wait until \(holder) is done")
      }
      state.heldBy = verb
    }
    defer { state.withLock { $0.heldBy = nil } }
    // Looked at after taking hold: from now on nobody starts the guest.
    try require(allowed, for: verb)
    guard engine.gate.state.withLock(\.isAllParked) else {
      throw ControlFailure(.badState, "\(verb) is not possible: vCPUs have not stopped yet")
    }
    return try body()
  }

  private func checkOwner(of blob: StateBlob) throws(StateBlobError) {
    guard blob.kind == engine.blobKind else {
      throw .otherGuest("it was saved by the \(blob.kind) guest, this is \(engine.blobKind)")
    }
    guard blob.vcpuCount == layout.vcpuCount else {
      throw .otherGuest("\(blob.vcpuCount) vCPUs, not \(layout.vcpuCount)")
    }
    guard blob.memoryByteCount == layout.byteCount, blob.pageSize == options.pageSize.rawValue
    else {
      throw .otherGuest("\(blob.memoryByteCount) bytes in pages of \(blob.pageSize)")
    }
    let magic = memory.word(at: UInt64(HEADER_MAGIC))
    guard magic == UInt64(GUEST_MAGIC), memory.word(at: UInt64(HEADER_SEED)) == blob.seed else {
      throw .otherGuest("its seed is \(blob.seed), the memory is another's")
    }
    for vcpu in 0..<layout.vcpuCount {
      let canary = memory.word(at: layout.offset(ofVcpu: vcpu) + UInt64(VCPU_CANARY))
      guard canary == AccessPattern.canary(vcpu: vcpu, seed: blob.seed) else {
        throw .otherGuest("the page of vCPU \(vcpu) is another's")
      }
    }
  }

  private func waitUntilParked(_ timeoutMilliseconds: UInt64) throws(ControlFailure) {
    guard engine.gate.waitUntilParked(until: Self.deadline(timeoutMilliseconds)) else {
      throw stuck(
        isDiskBusy
          ? "the disk's reads were not complete within \(timeoutMilliseconds) ms; the guest is "
            + "paused once they are"
          : "not all vCPUs stopped within \(timeoutMilliseconds) ms: they wait for pages, and stop "
            + "when those arrive")
    }
  }

  private func stuck(_ description: String) -> ControlFailure {
    var failure = ControlFailure(.timeout, description)
    failure.waitingVcpus = engine.gate.state.withLock { gate in
      (0..<layout.vcpuCount).filter { !gate.isParked[$0] && !gate.hasLeft[$0] }
    }
    return failure
  }

  /// Whether nothing but reads of the disk holds up a pause.
  private var isDiskBusy: Bool {
    engine.gate.state.withLock { gate in
      !gate.isAllParked
        && (0..<layout.vcpuCount).allSatisfy { gate.isParked[$0] || gate.hasLeft[$0] }
    }
  }

  private static func deadline(_ milliseconds: UInt64) -> Instant {
    // An hour is for ever here, and keeps the sum from overflowing.
    MonotonicClock.now().advanced(byNanoseconds: min(milliseconds, 3_600_000) * 1_000_000)
  }
}
