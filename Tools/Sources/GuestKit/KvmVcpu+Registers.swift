internal import CGuestProgram
internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// Getting and setting what a vCPU is made of. The vCPU must be parked.
extension KvmVcpu {
  private static let protectedMode: UInt64 = 0x8005_0033  // PG WP NE ET MP PE
  private static let vectorAndPhysicalExtension: UInt64 = 0x620  // PAE OSFXSR OSXMMEXCPT
  private static let longMode: UInt64 = 0x500  // LME LMA

  func registers() throws(SystemError) -> kvm_regs {
    var registers = kvm_regs()
    try control(clinux_kvm_get_regs, &registers, "KVM_GET_REGS")
    return registers
  }

  /// Puts the vCPU at the program's first byte: 64-bit mode, flat segments, identity mapping.
  func resetToEntry() throws(SystemError) {
    var special = kvm_sregs()
    try control(clinux_kvm_get_sregs, &special, "KVM_GET_SREGS")
    special.cr0 = Self.protectedMode
    special.cr3 = GuestLayout.pageTableOffset
    special.cr4 = Self.vectorAndPhysicalExtension
    special.efer = Self.longMode
    special.cs = Self.segment(selector: 0x2b, type: 11, isCode: true)
    let flat = Self.segment(selector: 0x33, type: 3, isCode: false)
    (special.ds, special.es, special.fs, special.gs, special.ss) = (flat, flat, flat, flat, flat)
    try control(clinux_kvm_set_sregs, &special, "KVM_SET_SREGS")

    let page = layout.offset(ofVcpu: index)
    var registers = kvm_regs()
    registers.rip = layout.codeOffset
    registers.rflags = 0x3002  // IOPL 3: the ports are open to user mode.
    registers.rsp = page + UInt64(VCPU_STACK_TOP)
    registers.r15 = 0
    registers.r14 = page
    registers.r13 = layout.tableOffset
    registers.r12 = layout.pagesOffset
    registers.rbx = AccessPattern.firstRandom(vcpu: index, seed: layout.seed)
    try control(clinux_kvm_set_regs, &registers, "KVM_SET_REGS")
    try setCanary(AccessPattern.canary(vcpu: index, seed: layout.seed))
  }

  /// Low half of xmm15, in the legacy part of the XSAVE area (byte 160 + 15 × 16).
  private func setCanary(_ value: UInt64) throws(SystemError) {
    var area = try bytes(clinux_kvm_get_xsave, count: 4096, "KVM_GET_XSAVE")
    for byte in 0..<8 { area[400 + byte] = UInt8(truncatingIfNeeded: value >> (8 * byte)) }
    // XSTATE_BV: the x87 and SSE parts are in use, else they are loaded as zeros.
    area[512] |= 3
    try setBytes(clinux_kvm_set_xsave, area, "KVM_SET_XSAVE")
  }

  private static func segment(selector: UInt16, type: UInt8, isCode: Bool) -> kvm_segment {
    var segment = kvm_segment()
    segment.limit = 0xffff_ffff
    segment.selector = selector
    segment.type = type
    segment.present = 1
    segment.s = 1
    segment.dpl = 3
    segment.g = 1
    segment.l = isCode ? 1 : 0
    segment.db = isCode ? 0 : 1
    return segment
  }

  /// Lets the guest use what this host's KVM offers.
  func offerProcessorFeatures(_ table: [UInt8]) throws(SystemError) {
    try setBytes(clinux_kvm_set_cpuid2, table, "KVM_SET_CPUID2")
  }

  // MARK: - Saving and loading

  /// The parts of a vCPU in the order in which they are loaded: special registers decide how
  /// others are understood, and events come last because setting registers clears some.
  private enum Part: UInt16, CaseIterable {
    case specialRegisters = 1
    case extendedControl = 2
    case extendedState = 3
    case modelSpecific = 4
    case general = 5
    case debug = 6
    case multiprocessor = 7
    case events = 8
  }

  /// System call entry, page attributes, time: what a guest of ours or a later one may depend on.
  /// A register that this KVM does not have is left out.
  private static let modelSpecificRegisters: [UInt32] = [
    0x10, 0x174, 0x175, 0x176, 0x1a0, 0x277, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084,
    0xc000_0102, 0xc000_0103,
  ]

  func save(xsaveByteCount: Int) throws(SystemError) -> [StateBlob.Section] {
    var sections: [StateBlob.Section] = []
    for part in Part.allCases {
      let bytes: [UInt8]
      switch part {
      case .specialRegisters:
        bytes = try self.bytes(
          clinux_kvm_get_sregs, count: MemoryLayout<kvm_sregs>.size, "KVM_GET_SREGS")
      case .extendedControl:
        bytes = try self.bytes(
          clinux_kvm_get_xcrs, count: MemoryLayout<kvm_xcrs>.size, "KVM_GET_XCRS")
      case .extendedState:
        bytes =
          xsaveByteCount > 4096
          ? try self.bytes(clinux_kvm_get_xsave2, count: xsaveByteCount, "KVM_GET_XSAVE2")
          : try self.bytes(clinux_kvm_get_xsave, count: 4096, "KVM_GET_XSAVE")
      case .modelSpecific: bytes = try savedModelSpecificRegisters()
      case .general:
        bytes = try self.bytes(
          clinux_kvm_get_regs, count: MemoryLayout<kvm_regs>.size, "KVM_GET_REGS")
      case .debug:
        bytes = try self.bytes(
          clinux_kvm_get_debug_registers, count: MemoryLayout<kvm_debugregs>.size,
          "KVM_GET_DEBUGREGS")
      case .multiprocessor:
        bytes = try self.bytes(
          clinux_kvm_get_mp_state, count: MemoryLayout<kvm_mp_state>.size, "KVM_GET_MP_STATE")
      case .events:
        bytes = try self.bytes(
          clinux_kvm_get_vcpu_events, count: MemoryLayout<kvm_vcpu_events>.size,
          "KVM_GET_VCPU_EVENTS")
      }
      sections.append(
        StateBlob.Section(tag: part.rawValue, vcpu: UInt16(index), bytes: bytes))
    }
    return sections
  }

  func load(_ blob: StateBlob, xsaveByteCount: Int) throws(StateBlobError) {
    for part in Part.allCases {
      let bytes = try blob.section(part.rawValue, vcpu: index)
      let request: UInt
      let expected: Int
      switch part {
      case .specialRegisters:
        (request, expected) = (clinux_kvm_set_sregs, MemoryLayout<kvm_sregs>.size)
      case .extendedControl:
        (request, expected) = (clinux_kvm_set_xcrs, MemoryLayout<kvm_xcrs>.size)
      case .extendedState: (request, expected) = (clinux_kvm_set_xsave, max(4096, xsaveByteCount))
      case .modelSpecific:
        try loadModelSpecificRegisters(bytes)
        continue
      case .general: (request, expected) = (clinux_kvm_set_regs, MemoryLayout<kvm_regs>.size)
      case .debug:
        (request, expected) = (clinux_kvm_set_debug_registers, MemoryLayout<kvm_debugregs>.size)
      case .multiprocessor:
        (request, expected) = (clinux_kvm_set_mp_state, MemoryLayout<kvm_mp_state>.size)
      case .events:
        (request, expected) = (clinux_kvm_set_vcpu_events, MemoryLayout<kvm_vcpu_events>.size)
      }
      guard bytes.count == expected else {
        throw .section("vCPU \(index), \(part): \(bytes.count) bytes instead of \(expected)")
      }
      try set(request, bytes, part: "\(part)")
    }
  }

  private func savedModelSpecificRegisters() throws(SystemError) -> [UInt8] {
    var saved: [UInt8] = []
    for number in Self.modelSpecificRegisters {
      var request = Self.modelSpecificRequest(number, value: 0)
      // One at a time: KVM stops at the first that it does not have, and answers how many it read.
      // unsafe: the array holds a kvm_msrs header and one entry, which KVM fills in.
      let count = unsafe request.withUnsafeMutableBytes {
        unsafe clinux_ioctl_pointer(descriptor.rawValue, clinux_kvm_get_msrs, $0.baseAddress)
      }
      guard count >= 0 else { throw SystemError("KVM_GET_MSRS", "\(number)") }
      if count == 1 { saved += request[8...] }
    }
    return saved
  }

  private func loadModelSpecificRegisters(_ bytes: [UInt8]) throws(StateBlobError) {
    let entryByteCount = MemoryLayout<kvm_msr_entry>.size
    guard bytes.count % entryByteCount == 0 else { throw .section("vCPU \(index): odd MSR list") }
    for start in stride(from: 0, to: bytes.count, by: entryByteCount) {
      let number = bytes.littleEndian(at: start, as: UInt32.self)
      var request = Self.modelSpecificRequest(
        number, value: bytes.littleEndian(at: start + 8, as: UInt64.self))
      // unsafe: as in savedModelSpecificRegisters.
      let count = unsafe request.withUnsafeMutableBytes {
        unsafe clinux_ioctl_pointer(descriptor.rawValue, clinux_kvm_set_msrs, $0.baseAddress)
      }
      guard count == 1 else { throw .section("vCPU \(index): KVM refuses MSR \(number)") }
    }
  }

  /// struct kvm_msrs with one entry: count, padding, index, reserved, value.
  private static func modelSpecificRequest(_ number: UInt32, value: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(littleEndian: UInt32(1))
    bytes.append(littleEndian: UInt32(0))
    bytes.append(littleEndian: number)
    bytes.append(littleEndian: UInt32(0))
    bytes.append(littleEndian: value)
    return bytes
  }

  // MARK: - ioctl

  private func control<Argument: BitwiseCopyable>(
    _ request: UInt, _ argument: inout Argument, _ name: StaticOperation
  ) throws(SystemError) {
    // unsafe: each call passes the struct that its request number was computed from.
    let result = unsafe clinux_ioctl_pointer(descriptor.rawValue, request, &argument)
    guard result >= 0 else { throw SystemError(name, "vCPU \(index)") }
  }

  private func bytes(
    _ request: UInt, count: Int, _ name: StaticOperation
  ) throws(SystemError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    // unsafe: the caller passes the size of what KVM writes for this request.
    let result = unsafe bytes.withUnsafeMutableBytes {
      unsafe clinux_ioctl_pointer(descriptor.rawValue, request, $0.baseAddress)
    }
    guard result >= 0 else { throw SystemError(name, "vCPU \(index)") }
    return bytes
  }

  private func setBytes(
    _ request: UInt, _ bytes: [UInt8], _ name: StaticOperation
  ) throws(SystemError) {
    var bytes = bytes
    // unsafe: the bytes are a whole struct of that request, or the table that KVM itself filled.
    let result = unsafe bytes.withUnsafeMutableBytes {
      unsafe clinux_ioctl_pointer(descriptor.rawValue, request, $0.baseAddress)
    }
    guard result >= 0 else { throw SystemError(name, "vCPU \(index)") }
  }

  private func set(_ request: UInt, _ bytes: [UInt8], part: String) throws(StateBlobError) {
    do throws(SystemError) {
      try setBytes(request, bytes, "KVM_SET")
    } catch {
      throw .section("vCPU \(index), \(part): \(error)")
    }
  }
}
