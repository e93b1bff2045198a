import CLinux
import Glibc
import Testing

@testable import System

/// The filter's program, run by a small machine of our own: its answer for any call.
@Suite struct SystemCallFilterTests {
  private enum Action: Equatable {
    case allow
    case errno(Int32)
    case killProcess
  }

  /// What the kernel would do with that call.
  private func action(
    _ number: Int32, _ arguments: [UInt32] = [], architecture: UInt32 = clinux_audit_architecture
  ) throws -> Action {
    let program = SystemCallFilter(processID: 4711).instructions
    var fields: [UInt32: UInt32] = [0: UInt32(bitPattern: number), 4: architecture]
    for (position, argument) in arguments.enumerated() {
      fields[16 + 8 * UInt32(position)] = argument
    }
    var accumulator: UInt32 = 0
    var position = 0
    while true {
      // The kernel refuses a program that can run past its end.
      let step = try #require(position < program.count ? program[position] : nil)
      position += 1
      let code = Int32(step.code)
      var isTaken = false
      switch code {
      case BPF_LD | BPF_W | BPF_ABS:
        accumulator = fields[step.k] ?? 0
        continue
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= step.k
        continue
      case BPF_RET | BPF_K:
        if step.k == UInt32(SECCOMP_RET_ALLOW) { return .allow }
        if step.k == UInt32(SECCOMP_RET_KILL_PROCESS) { return .killProcess }
        try #require(step.k & 0xFFFF_0000 == UInt32(SECCOMP_RET_ERRNO))
        return .errno(Int32(step.k & 0xFFFF))
      case BPF_JMP | BPF_JEQ | BPF_K: isTaken = accumulator == step.k
      case BPF_JMP | BPF_JGE | BPF_K: isTaken = accumulator >= step.k
      case BPF_JMP | BPF_JGT | BPF_K: isTaken = accumulator > step.k
      case BPF_JMP | BPF_JSET | BPF_K: isTaken = accumulator & step.k != 0
      default: Issue.record("instruction \(code) is none of the filter's")
      }
      position += Int(isTaken ? step.jt : step.jf)
    }
  }

  @Test func whatASessionCallsPasses() throws {
    for call in SystemCallFilter.plainCalls { #expect(try action(call) == .allow) }
    #expect(Set(SystemCallFilter.plainCalls).count == SystemCallFilter.plainCalls.count)
  }

  @Test(arguments: [
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_mount,
    SYS_umount2, SYS_unshare, SYS_setns, SYS_chroot, SYS_pivot_root, SYS_init_module,
    SYS_finit_module, SYS_kexec_load, SYS_bpf, SYS_perf_event_open, SYS_keyctl, SYS_setuid,
    SYS_setgid, SYS_capset, SYS_seccomp, SYS_personality, SYS_kill, SYS_tkill, SYS_mknodat,
    SYS_reboot, SYS_swapon, SYS_clock_settime, SYS_open_by_handle_at, SYS_process_madvise,
  ])
  func whatNoSessionCallsIsRefused(_ call: Int32) throws {
    #expect(try action(call, [1, 1, 1, 1, 1, 1]) == .errno(EPERM))
  }

  @Test func threadsBeginAndProcessesDoNot() throws {
    let threadFlags = UInt32(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
    #expect(try action(SYS_clone, [threadFlags]) == .allow)
    #expect(try action(SYS_clone, [UInt32(SIGCHLD)]) == .errno(EPERM))
    #expect(try action(SYS_clone, [UInt32(CLONE_VM | CLONE_VFORK | SIGCHLD)]) == .errno(EPERM))
    // Its flags cannot be seen; libc takes clone instead.
    #expect(try action(SYS_clone3, [threadFlags]) == .errno(ENOSYS))
  }

  @Test func ioctlPassesForUserfaultfdPagemapAndTheTerminalsSize() throws {
    let descriptor: UInt32 = 5
    for request in [
      uffd_request_copy, uffd_request_zeropage, uffd_request_continue, uffd_request_wake,
      uffd_request_register, uffd_request_api, uffd_request_new, pagemap_request_scan,
      UInt(TIOCGWINSZ), UInt(FIONREAD), UInt(TCGETS),
    ] {
      #expect(
        try action(SYS_ioctl, [descriptor, UInt32(truncatingIfNeeded: request)]) == .allow)
    }
    // Typing into the terminal, taking one over, the network's settings.
    for request in [UInt32(TIOCSTI), UInt32(TIOCSCTTY), UInt32(SIOCSIFFLAGS), 0] {
      #expect(try action(SYS_ioctl, [descriptor, request]) == .errno(EPERM))
    }
  }

  @Test func argumentsDecide() throws {
    for family in [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK] {
      #expect(try action(SYS_socket, [UInt32(family)]) == .allow)
    }
    for family in [AF_PACKET, AF_VSOCK, AF_ALG, AF_BLUETOOTH] {
      #expect(try action(SYS_socket, [UInt32(family)]) == .errno(EPERM))
    }
    #expect(try action(SYS_prctl, [UInt32(PR_SET_NAME)]) == .allow)
    #expect(try action(SYS_prctl, [UInt32(PR_SET_DUMPABLE)]) == .errno(EPERM))
    #expect(try action(SYS_prctl, [UInt32(PR_SET_PTRACER)]) == .errno(EPERM))
    #expect(try action(SYS_prlimit64, [0]) == .allow)
    #expect(try action(SYS_prlimit64, [1]) == .errno(EPERM))
    #expect(try action(SYS_tgkill, [4711]) == .allow)
    #expect(try action(SYS_tgkill, [1]) == .errno(EPERM))
  }

  @Test func anotherMachinesCallsEndTheProcess() throws {
    #expect(try action(SYS_read, architecture: thirtyTwoBitArchitecture) == .killProcess)
    #if arch(x86_64)
      #expect(try action(SYS_read | 0x4000_0000) == .killProcess)
    #endif
  }

  @Test func aNumberFromTheFutureIsNotImplemented() throws {
    #expect(try action(Int32(clinux_highest_system_call) + 1) == .errno(ENOSYS))
    #expect(try action(4000) == .errno(ENOSYS))
  }

  /// EM_386, little-endian: what a 32-bit program's calls carry.
  private var thirtyTwoBitArchitecture: UInt32 { 0x4000_0003 }
}
