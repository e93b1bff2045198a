internal import CGuestProgram
internal import CLinux
internal import Glibc
internal import Pages
internal import Synchronization
internal import System

/// The guest program in Swift: the same operations on the same memory, a thread for each vCPU.
/// It stops between operations only, and like a vCPU it cannot stop while it waits for a page.
final class ProcessGuest: GuestEngine {
  let gate: VcpuGate
  let blobKind = StateBlob.Kind.process
  private let vcpus: [ProcessVcpu]
  private let threads = ThreadGroup()

  init(
    memory: GuestMemory, layout: GuestLayout, removal: RemovalMethod, readerCount: Int
  ) throws(SystemError) {
    var vcpus: [ProcessVcpu] = []
    for index in 0..<layout.vcpuCount {
      vcpus.append(
        try ProcessVcpu(index: index, memory: memory, layout: layout, removal: removal))
    }
    let all = vcpus
    self.vcpus = all
    gate = VcpuGate(vcpuCount: all.count, readerCount: readerCount) { all[$0].interrupt() }
  }

  func startThreads() throws(SystemError) {
    try threads.start(count: vcpus.count, name: "vcpu") { [gate, vcpus] index in
      let vcpu = vcpus[index]
      gate.live(vcpu: index, beforeRun: vcpu.clearInterrupt, run: vcpu.runGuest)
    }
  }

  func joinThreads() { threads.join() }

  func resetToEntry() throws(SystemError) {
    for vcpu in vcpus { vcpu.resetToEntry() }
  }

  func save() throws(SystemError) -> [StateBlob.Section] { vcpus.map { $0.save() } }

  func load(_ blob: StateBlob) throws(StateBlobError) {
    for vcpu in vcpus { try vcpu.load(blob) }
  }
}

/// One thread's share of the process guest. Only its thread, or somebody who knows that the thread
/// is parked, touches the registers.
final class ProcessVcpu: @unchecked Sendable {
  private static let sectionTag: UInt16 = 100

  private struct Registers {
    var random: UInt64 = 0
    var cursor: UInt64 = 0
    var operations: UInt64 = 0
    var canary: UInt64 = 0
  }

  private let index: Int
  private let memory: GuestMemory
  private let layout: GuestLayout
  private let removal: RemovalMethod
  private let wakeUp: WakeEvent
  private let mustStop = Atomic<Bool>(false)
  private var registers = Registers()

  init(
    index: Int, memory: GuestMemory, layout: GuestLayout, removal: RemovalMethod
  ) throws(SystemError) {
    self.index = index
    self.memory = memory
    self.layout = layout
    self.removal = removal
    wakeUp = try WakeEvent()
  }

  func interrupt() {
    mustStop.store(true, ordering: .releasing)
    wakeUp.signal()
  }

  func clearInterrupt() {
    mustStop.store(false, ordering: .releasing)
    _ = wakeUp.drain()
  }

  func resetToEntry() {
    registers = Registers(
      random: AccessPattern.firstRandom(vcpu: index, seed: layout.seed),
      canary: AccessPattern.canary(vcpu: index, seed: layout.seed))
  }

  func save() -> StateBlob.Section {
    var bytes: [UInt8] = []
    for value in [registers.random, registers.cursor, registers.operations, registers.canary] {
      bytes.append(littleEndian: value)
    }
    return StateBlob.Section(tag: Self.sectionTag, vcpu: UInt16(index), bytes: bytes)
  }

  func load(_ blob: StateBlob) throws(StateBlobError) {
    let bytes = try blob.section(Self.sectionTag, vcpu: index)
    guard bytes.count == 32 else { throw .section("vCPU \(index): \(bytes.count) bytes") }
    registers = Registers(
      random: bytes.littleEndian(at: 0, as: UInt64.self),
      cursor: bytes.littleEndian(at: 8, as: UInt64.self),
      operations: bytes.littleEndian(at: 16, as: UInt64.self),
      canary: bytes.littleEndian(at: 24, as: UInt64.self))
  }

  // MARK: - The program; see guest_program.S

  func runGuest() -> VcpuStop {
    while !mustStop.load(ordering: .acquiring) {
      if registers.operations >= field(VCPU_OPERATION_LIMIT) { return .finished }
      if let mismatch = operation() { return .failed(mismatch) }
      let burst = field(VCPU_BURST)
      if burst > 0 {
        setField(VCPU_SINCE_WAIT, to: field(VCPU_SINCE_WAIT) + 1)
        if field(VCPU_SINCE_WAIT) >= burst {
          setField(VCPU_SINCE_WAIT, to: 0)
          wait(microseconds: field(VCPU_WAIT_MICROSECONDS))
        }
      }
    }
    return .kicked
  }

  private func operation() -> Mismatch? {
    guard registers.canary == field(VCPU_CANARY) else { return crash("a register lost its value") }
    guard registers.operations == field(VCPU_OPERATIONS) else {
      return crash("the operation counter in memory is not the vCPU's")
    }
    if let failure = removals() { return failure }
    let page = layout.dataPage(ofVcpu: index, local: Int(choosePage()))
    if let mismatch = verify(page) { return mismatch }
    if nextRandom() >> 32 < field(VCPU_WRITE_THRESHOLD) { write(page) }
    registers.operations += 1
    setField(VCPU_OPERATIONS, to: registers.operations)
    return nil
  }

  private func removals() -> Mismatch? {
    let cursor = field(VCPU_BALLOON_CURSOR)
    if cursor < field(VCPU_BALLOON_END) {
      if let failure = remove(granule: cursor) { return failure }
      setField(VCPU_BALLOON_CURSOR, to: cursor + 1)
    }
    let every = field(VCPU_REMOVE_EVERY)
    guard every > 0 else { return nil }
    setField(VCPU_SINCE_REMOVE, to: field(VCPU_SINCE_REMOVE) + 1)
    guard field(VCPU_SINCE_REMOVE) >= every else { return nil }
    setField(VCPU_SINCE_REMOVE, to: 0)
    let draw = nextRandom() & 0xffff_ffff
    return remove(granule: (draw * field(VCPU_GRANULE_COUNT)) >> 32)
  }

  private func nextRandom() -> UInt64 {
    registers.random ^= registers.random << 13
    registers.random ^= registers.random >> 7
    registers.random ^= registers.random << 17
    return registers.random
  }

  private func choosePage() -> UInt64 {
    let count = field(VCPU_PAGE_COUNT)
    switch Int32(field(VCPU_PATTERN)) {
    case PATTERN_SEQUENTIAL:
      defer { registers.cursor = registers.cursor + 1 < count ? registers.cursor + 1 : 0 }
      return registers.cursor
    case PATTERN_STRIDED:
      defer { registers.cursor = (registers.cursor + field(VCPU_STRIDE)) % count }
      return registers.cursor
    case PATTERN_ZIPF:
      while true {
        let octave = ((nextRandom() & 0xffff_ffff) * field(VCPU_OCTAVES)) >> 32
        let first: UInt64 = 1 << octave
        let rank = first + ((nextRandom() >> 8) & (first - 1)) - 1
        if rank < count { return fullCycle(after: rank) }
      }
    case PATTERN_CHASE:
      let page = layout.dataPage(ofVcpu: index, local: Int(registers.cursor))
      let entry = entry(of: page)
      var correction: UInt64 = 0
      if entry.version > 0, !entry.isRemoved {
        correction =
          memory.word(at: layout.offset(ofDataPage: page)) &- layout.imagePage(ofDataPage: page)
      }
      registers.cursor = fullCycle(after: registers.cursor &+ correction)
      return registers.cursor
    default:
      while true {
        let draw = nextRandom() & field(VCPU_PAGE_MASK)
        if draw < count { return draw }
      }
    }
  }

  private func fullCycle(after local: UInt64) -> UInt64 {
    var next = local
    repeat {
      next = (next &* UInt64(WALK_MULTIPLIER) &+ UInt64(WALK_INCREMENT)) & field(VCPU_PAGE_MASK)
    } while next >= field(VCPU_PAGE_COUNT)
    return next
  }

  private func verify(_ page: Int) -> Mismatch? {
    let entry = entry(of: page)
    // unsafe: a data page is 4 KiB inside the memory, which lives as long as self.
    let found = unsafe UnsafeRawPointer(memory.pointer(at: layout.offset(ofDataPage: page)))
    let id = layout.imagePage(ofDataPage: page)
    let content = layout.content(ofDataPage: page, version: entry.version)
    let zero = layout.content(ofDataPage: page, version: 0)
    let isRight =
      entry.isRemoved
      ? unsafe zero.matches(found) || (layout.removedMayKeep && content.matches(found))
      : unsafe content.matches(found)
    if isRight { return nil }
    return Mismatch(
      vcpu: index, imagePage: id, expectedVersion: entry.version, wasRemoved: entry.isRemoved,
      foundWord0: unsafe found.load(as: UInt64.self),
      foundWord1: unsafe found.load(fromByteOffset: 8, as: UInt64.self),
      what: "a page does not hold what it must")
  }

  private func write(_ page: Int) {
    let next = entry(of: page).written
    let id = layout.imagePage(ofDataPage: page)
    setField(VCPU_INFLIGHT_WRITES, to: field(VCPU_WRITES))
    setField(VCPU_INFLIGHT_ENTRY, to: UInt64(next.rawValue))
    setField(VCPU_INFLIGHT_PAGE, to: id)
    unsafe layout.content(ofDataPage: page, version: next.version)
      .fill(memory.pointer(at: layout.offset(ofDataPage: page)))
    setEntry(of: page, to: next)
    setField(VCPU_WRITES, to: field(VCPU_WRITES) + 1)
    setField(VCPU_INFLIGHT_PAGE, to: 0)
  }

  private func remove(granule: UInt64) -> Mismatch? {
    let first = layout.dataPage(ofVcpu: index, local: Int(granule) << layout.granuleShift)
    setField(VCPU_INFLIGHT_ENTRY, to: UInt64(ENTRY_REMOVED))
    setField(VCPU_INFLIGHT_PAGE, to: layout.imagePage(ofDataPage: first))
    for page in first..<first + layout.pagesPerGranule {
      setEntry(of: page, to: entry(of: page).removed)
    }
    do throws(SystemError) {
      try memory.removePage(at: layout.offset(ofDataPage: first), by: removal)
    } catch {
      return crash("a page could not be given back: \(error)")
    }
    setField(VCPU_REMOVALS, to: field(VCPU_REMOVALS) + 1)
    setField(VCPU_INFLIGHT_PAGE, to: 0)
    return nil
  }

  private func entry(of page: Int) -> TableEntry {
    let address = unsafe memory.pointer(at: layout.tableOffset + UInt64(page) * 4)
    return unsafe TableEntry(rawValue: address.load(as: UInt32.self))
  }

  private func setEntry(of page: Int, to entry: TableEntry) {
    let address = unsafe memory.pointer(at: layout.tableOffset + UInt64(page) * 4)
    unsafe address.storeBytes(of: entry.rawValue, as: UInt32.self)
  }

  private func field(_ offset: Int32) -> UInt64 {
    memory.word(at: layout.offset(ofVcpu: index) + UInt64(offset))
  }

  private func setField(_ offset: Int32, to value: UInt64) {
    memory.setWord(at: layout.offset(ofVcpu: index) + UInt64(offset), to: value)
  }

  private func wait(microseconds: UInt64) {
    var events = pollfd(fd: wakeUp.rawValue, events: Int16(POLLIN), revents: 0)
    var time = timespec(
      tv_sec: Int(microseconds / 1_000_000), tv_nsec: Int(microseconds % 1_000_000) * 1000)
    // Any end will do: time over, interrupted by the gate, or by a signal.
    _ = unsafe ppoll(&events, 1, &time, nil)
  }

  private func crash(_ what: String) -> Mismatch {
    Mismatch(
      vcpu: index, imagePage: 0, expectedVersion: 0, wasRemoved: false, foundWord0: 0,
      foundWord1: 0, what: what)
  }
}
