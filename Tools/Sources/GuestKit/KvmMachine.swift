internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// A virtual machine of KVM: one memory slot for each region, no devices, no interrupts.
final class KvmMachine: GuestEngine {
  let gate: VcpuGate
  let blobKind = StateBlob.Kind.kvm
  let dirtyLog: DirtyLog
  private let descriptor: OwnedDescriptor
  private let vcpus: [KvmVcpu]
  private let threads = ThreadGroup()
  private let xsaveByteCount: Int

  /// Whether this process may make virtual machines here.
  static var isAvailable: Bool {
    guard let device = try? OwnedDescriptor.open("/dev/kvm", flags: O_RDWR) else { return false }
    return clinux_ioctl_none(device.rawValue, clinux_kvm_get_api_version) == KVM_API_VERSION
  }

  init(
    memory: GuestMemory, layout: GuestLayout, removal: RemovalMethod, readerCount: Int
  ) throws(SystemError) {
    let device = try OwnedDescriptor.open("/dev/kvm", flags: O_RDWR)
    // A signal that comes while the kernel makes the VM's own thread ends the call with EINTR, and
    // it is to be made again (as QEMU does; seen 2026-11-22).
    var number: Int32
    repeat {
      number = clinux_ioctl_int(device.rawValue, clinux_kvm_create_vm, 0)
    } while number < 0 && Errno.current == .interrupted
    guard number >= 0 else { throw SystemError("KVM_CREATE_VM") }
    let machine = OwnedDescriptor(adopting: number)
    let runByteCount = clinux_ioctl_none(device.rawValue, clinux_kvm_get_vcpu_mmap_size)
    guard runByteCount > 0 else { throw SystemError("KVM_GET_VCPU_MMAP_SIZE") }
    let xsave = clinux_ioctl_int(
      machine.rawValue, clinux_kvm_check_extension, UInt(KVM_CAP_XSAVE2))
    xsaveByteCount = max(4096, Int(xsave))
    let features = try Self.supportedFeatures(device)
    let log = DirtyLog(memory: memory, machine: machine.rawValue)
    try log.registerSlots(tracking: false)

    var vcpus: [KvmVcpu] = []
    for index in 0..<layout.vcpuCount {
      let number = clinux_ioctl_int(machine.rawValue, clinux_kvm_create_vcpu, UInt(index))
      guard number >= 0 else { throw SystemError("KVM_CREATE_VCPU", "\(index)") }
      let vcpu = try KvmVcpu(
        index: index, descriptor: OwnedDescriptor(adopting: number),
        runByteCount: Int(runByteCount), memory: memory, layout: layout, removal: removal,
        onRemove: { log.noteOwnChange(offset: $0 * 4096, byteCount: memory.pageSize.byteCount) })
      try vcpu.offerProcessorFeatures(features)
      vcpus.append(vcpu)
    }
    let all = vcpus
    self.vcpus = all
    gate = VcpuGate(vcpuCount: all.count, readerCount: readerCount) { all[$0].interrupt() }
    dirtyLog = log
    descriptor = machine
  }

  func startThreads() throws(SystemError) {
    try threads.start(count: vcpus.count, name: "vcpu") { [gate, vcpus] index in
      let vcpu = vcpus[index]
      gate.live(vcpu: index, beforeRun: vcpu.clearInterrupt, run: vcpu.runGuest)
    }
  }

  func joinThreads() { threads.join() }

  func resetToEntry() throws(SystemError) {
    for vcpu in vcpus { try vcpu.resetToEntry() }
  }

  func save() throws(SystemError) -> [StateBlob.Section] {
    var sections: [StateBlob.Section] = []
    for vcpu in vcpus { sections += try vcpu.save(xsaveByteCount: xsaveByteCount) }
    return sections
  }

  func load(_ blob: StateBlob) throws(StateBlobError) {
    for vcpu in vcpus { try vcpu.load(blob, xsaveByteCount: xsaveByteCount) }
  }

  /// struct kvm_cpuid2 as KVM fills it in, to be handed back to each vCPU.
  private static func supportedFeatures(
    _ device: borrowing OwnedDescriptor
  ) throws(SystemError) -> [UInt8] {
    // KVM_MAX_CPUID_ENTRIES of the kernel; KVM lowers it to what it has.
    let capacity = 256
    var table = [UInt8](
      repeating: 0, count: 8 + capacity * MemoryLayout<kvm_cpuid_entry2>.size)
    table.replaceSubrange(0..<4, with: [0, 1, 0, 0])
    let number = device.rawValue
    // unsafe: the table has a header that says how many entries there is room for.
    let result = unsafe table.withUnsafeMutableBytes {
      unsafe clinux_ioctl_pointer(number, clinux_kvm_get_supported_cpuid, $0.baseAddress)
    }
    guard result >= 0 else { throw SystemError("KVM_GET_SUPPORTED_CPUID") }
    return table
  }
}
