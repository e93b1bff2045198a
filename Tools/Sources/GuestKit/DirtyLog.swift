internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// Which pages changed: KVM's log of the guest's writes, and what this VMM changed itself (pages
/// given back, a word in a vCPU's page), which KVM does not see.
final class DirtyLog: Sendable {
  private struct State {
    var isTracking = false
    var ownChanges: [UInt8] = []
  }

  private let memory: GuestMemory
  private let machine: Int32
  private let state = Lock(State())

  /// `machine` is the virtual machine's descriptor and outlives the log.
  init(memory: GuestMemory, machine: Int32) {
    self.memory = memory
    self.machine = machine
  }

  var isTracking: Bool { state.withLock(\.isTracking) }

  /// One bit for each 4 KiB page of the image.
  private var bitmapByteCount: Int { Int(memory.byteCount / 4096 / 8) }

  func registerSlots(tracking: Bool) throws(SystemError) {
    for (slot, mapped) in memory.regions.enumerated() {
      var region = kvm_userspace_memory_region()
      region.slot = UInt32(slot)
      region.flags = tracking ? UInt32(KVM_MEM_LOG_DIRTY_PAGES) : 0
      region.guest_phys_addr = mapped.region.imageOffset.rawValue
      region.memory_size = mapped.region.byteCount.rawValue
      region.userspace_addr = mapped.hostAddress
      // unsafe: the struct belongs to this request; the memory outlives the virtual machine.
      let result = unsafe clinux_ioctl_pointer(
        machine, clinux_kvm_set_user_memory_region, &region)
      guard result == 0 else { throw SystemError("KVM_SET_USER_MEMORY_REGION", "slot \(slot)") }
    }
  }

  func start() throws(SystemError) {
    try registerSlots(tracking: true)
    let count = bitmapByteCount
    state.withLock { $0 = State(isTracking: true, ownChanges: .init(repeating: 0, count: count)) }
  }

  func stop() throws(SystemError) {
    try registerSlots(tracking: false)
    state.withLock { $0 = State() }
  }

  /// To be called when this VMM has changed guest memory behind KVM's back.
  func noteOwnChange(offset: UInt64, byteCount: Int) {
    state.withLock { state in
      guard state.isTracking else { return }
      for page in Int(offset / 4096)..<Int(offset / 4096) + byteCount / 4096 {
        state.ownChanges[page >> 3] |= 1 << UInt8(page & 7)
      }
    }
  }

  /// The pages changed since the last call, which forgets them.
  func fetch() throws(SystemError) -> [UInt8] {
    var bitmap = [UInt8](repeating: 0, count: bitmapByteCount)
    for (slot, mapped) in memory.regions.enumerated() {
      let start = Int(mapped.region.imageOffset.rawValue / 4096 / 8)
      var request = unsafe kvm_dirty_log()
      unsafe request.slot = UInt32(slot)
      // unsafe: regions are multiples of 2 MiB, so each has whole 64-bit words in the bitmap, the
      // unit in which KVM writes; the array outlives the call.
      let result = unsafe bitmap.withUnsafeMutableBytes { bytes in
        unsafe request.dirty_bitmap = bytes.baseAddress! + start
        return unsafe clinux_ioctl_pointer(machine, clinux_kvm_get_dirty_log, &request)
      }
      guard result == 0 else { throw SystemError("KVM_GET_DIRTY_LOG", "slot \(slot)") }
    }
    let own = state.withLock { state in
      defer { state.ownChanges = .init(repeating: 0, count: bitmapByteCount) }
      return state.ownChanges
    }
    for index in own.indices { bitmap[index] |= own[index] }
    return bitmap
  }
}
