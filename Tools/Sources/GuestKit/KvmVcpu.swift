internal import CGuestProgram
internal import CLinux
internal import Glibc
internal import Pages
internal import Synchronization
internal import System

/// One real virtual CPU: its descriptor, its shared `kvm_run` page, and the guest's ports.
@safe
final class KvmVcpu: @unchecked Sendable {
  let index: Int
  let descriptor: OwnedDescriptor
  private let runByteCount: Int
  private let run: UnsafeMutablePointer<kvm_run>
  /// `immediate_exit` in the same page: the kernel reads it when it enters the guest, and others
  /// set it while this vCPU's thread may look at it.
  private let immediateExit: UnsafeMutablePointer<Atomic<UInt8>>
  /// Ends a rate-limit wait in the VMM.
  private let wakeUp: WakeEvent
  private let memory: GuestMemory
  let layout: GuestLayout
  private let removal: RemovalMethod
  /// Called for each page that went back.
  private let onRemove: @Sendable (_ imagePage: UInt64) -> Void

  init(
    index: Int, descriptor: consuming OwnedDescriptor, runByteCount: Int, memory: GuestMemory,
    layout: GuestLayout, removal: RemovalMethod,
    onRemove: @escaping @Sendable (UInt64) -> Void
  ) throws(SystemError) {
    self.index = index
    self.runByteCount = runByteCount
    self.memory = memory
    self.layout = layout
    self.removal = removal
    self.onRemove = onRemove
    wakeUp = try WakeEvent()
    let address = unsafe mmap(
      nil, runByteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor.rawValue, 0)
    guard let address = unsafe address, unsafe address != MAP_FAILED else {
      throw SystemError("mmap", "kvm_run of vCPU \(index)")
    }
    // unsafe: KVM shares a struct kvm_run at the start of this mapping, which lives as long as
    // self.
    unsafe run = address.assumingMemoryBound(to: kvm_run.self)
    // unsafe: one byte of that struct, which everybody here accesses through this pointer alone.
    let offset = MemoryLayout<kvm_run>.offset(of: \.immediate_exit)!
    unsafe immediateExit = (address + offset).assumingMemoryBound(to: Atomic<UInt8>.self)
    self.descriptor = descriptor
  }

  // unsafe: the mapping is ours, and the thread that used it has left.
  deinit { unsafe munmap(run, runByteCount) }

  /// Makes the next or the running KVM_RUN return. The caller sends the thread a signal as well.
  func interrupt() {
    unsafe immediateExit.pointee.store(1, ordering: .releasing)
    wakeUp.signal()
  }

  /// Undoes `interrupt`, before the vCPU runs again. With the gate's lock held.
  func clearInterrupt() {
    unsafe immediateExit.pointee.store(0, ordering: .releasing)
    _ = wakeUp.drain()
  }

  /// Lets the vCPU run until it is interrupted or stops by itself. On its own thread.
  func runGuest() -> VcpuStop {
    while true {
      let result = clinux_ioctl_none(descriptor.rawValue, clinux_kvm_run)
      if result != 0 {
        switch Errno.current {
        // Interrupted: the port access before, if any, is complete and the registers are final.
        case .interrupted:
          if unsafe immediateExit.pointee.load(ordering: .acquiring) != 0 { return .kicked }
        case .tryAgain: continue
        case let error: return .failed(crash("KVM_RUN: \(error)"))
        }
        continue
      }
      if let stop = handleExit() { return stop }
    }
  }

  private func handleExit() -> VcpuStop? {
    let reason = unsafe run.pointee.exit_reason
    guard reason == UInt32(KVM_EXIT_IO) else { return .failed(crash(Self.name(ofExit: reason))) }
    let port = unsafe Int32(run.pointee.io.port)
    // unsafe: KVM puts the value at this offset of the mapping; the guest only writes 32 bits.
    let value = unsafe UnsafeRawPointer(run)
      .loadUnaligned(fromByteOffset: Int(run.pointee.io.data_offset), as: UInt32.self)
    switch port {
    case PORT_REMOVE: return removePage(UInt64(value))
    case PORT_WAIT:
      waitMicroseconds(value)
      return nil
    case PORT_FINISHED:
      completePortAccess()
      return .finished
    case PORT_MISMATCH:
      let mismatch = mismatch(code: Int32(bitPattern: value))
      completePortAccess()
      return .failed(mismatch)
    default: return .failed(crash("the guest wrote to port \(port)"))
    }
  }

  private func removePage(_ imagePage: UInt64) -> VcpuStop? {
    let offset = imagePage * 4096
    guard offset < layout.byteCount, offset % UInt64(memory.pageSize.byteCount) == 0 else {
      return .failed(crash("the guest gave back page \(imagePage), which it does not have"))
    }
    do throws(SystemError) {
      try memory.removePage(at: offset, by: removal)
    } catch {
      return .failed(crash("a page could not be given back: \(error)"))
    }
    // Afterwards: a fetch in between would take the note and miss the change.
    onRemove(imagePage)
    return nil
  }

  /// KVM finishes an OUT when the vCPU is entered again: enter it, and come straight back.
  private func completePortAccess() {
    unsafe immediateExit.pointee.store(1, ordering: .releasing)
    let result = clinux_ioctl_none(descriptor.rawValue, clinux_kvm_run)
    invariant(result != 0 && Errno.current == .interrupted, "immediate_exit comes back with EINTR")
  }

  private func waitMicroseconds(_ count: UInt32) {
    var events = pollfd(fd: wakeUp.rawValue, events: Int16(POLLIN), revents: 0)
    var time = timespec(tv_sec: Int(count / 1_000_000), tv_nsec: Int(count % 1_000_000) * 1000)
    // Any end will do: time over, interrupted by the gate, or by a signal.
    _ = unsafe ppoll(&events, 1, &time, nil)
  }

  private func mismatch(code: Int32) -> Mismatch {
    guard code == MISMATCH_PAGE, let registers = try? registers() else {
      let what =
        code == MISMATCH_VECTOR_REGISTER
        ? "a vector register lost its value" : "the operation counter in memory is not the vCPU's"
      return crash(what)
    }
    let entry = TableEntry(rawValue: UInt32(truncatingIfNeeded: registers.rsi))
    // Being read by the guest just now, the page is there: this cannot wait.
    let offset = registers.r9 * 4096
    guard offset < layout.byteCount else { return crash("the guest reported page \(registers.r9)") }
    return Mismatch(
      vcpu: index, imagePage: registers.r9, expectedVersion: entry.version,
      wasRemoved: entry.isRemoved, foundWord0: memory.word(at: offset),
      foundWord1: memory.word(at: offset + 8), what: "a page does not hold what it must")
  }

  private func crash(_ what: String) -> Mismatch {
    let place = (try? registers()).map { " at rip \($0.rip)" } ?? ""
    return Mismatch(
      vcpu: index, imagePage: 0, expectedVersion: 0, wasRemoved: false, foundWord0: 0,
      foundWord1: 0, what: what + place)
  }

  private static func name(ofExit reason: UInt32) -> String {
    switch Int32(reason) {
    case KVM_EXIT_SHUTDOWN: "the guest crashed (triple fault)"
    case KVM_EXIT_INTERNAL_ERROR: "KVM gave up (internal error)"
    case KVM_EXIT_FAIL_ENTRY: "KVM could not enter the guest"
    case KVM_EXIT_MMIO: "the guest touched memory that it does not have"
    default: "KVM exit \(reason)"
    }
  }
}
