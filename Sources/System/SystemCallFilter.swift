internal import CLinux
internal import Glibc
internal import Pages

/// The system calls that a session makes, as a program for the kernel: seccomp(2). What is not
/// among them fails in the caller, so that code that an attacker brought in starts no program,
/// traces no process, loads no module, mounts nothing and makes no namespace.
///
/// **Why an error and not the process's end.** A call that is missing here is a mistake of ours on
/// some path that no test takes, and after the hand-over the end of the worker stops a guest until
/// another one has attached. An error is met like any other: it fails that step, with a name and a
/// number, and an attacker gains nothing by it. A number that the headers of this build do not know
/// gives ENOSYS, as an older kernel would, so that a newer libc falls back by itself; all others
/// give EPERM. Another machine's calls (32 bits, x32) end the process: no honest path makes them,
/// and their numbers would mean something else here.
///
/// ioctl stands first: a fill of a page is one, and its arguments are looked at every time. Calls
/// without a condition cost nothing: since Linux 5.11 the kernel remembers that they pass.
struct SystemCallFilter {
  /// The program.
  private(set) var instructions: [sock_filter] = []
  /// A jump reaches no further than that; each call's part is far shorter.
  private static let longestJump = 255

  /// `processID` is the only process that threads of this one may signal by number (abort(3)).
  init(processID: Int32) {
    load(Offset.architecture)
    whenEqual(clinux_audit_architecture, skip: 1)
    finish(SECCOMP_RET_KILL_PROCESS)
    load(Offset.number)
    #if arch(x86_64)
      // The x32 calls share the architecture, and have this bit.
      append(UInt32(BPF_JMP | BPF_JGE | BPF_K), 0x4000_0000, ifTrue: 0, ifFalse: 1)
      finish(SECCOMP_RET_KILL_PROCESS)
    #endif
    check(
      SYS_ioctl, argument: 1, masked: 0xFF00,
      // Userfaultfd and PAGEMAP_SCAN by their letters; a terminal's size, kind and unread bytes.
      equals: [UInt32(UFFD_ABI_TYPE) << 8, UInt32(UInt8(ascii: "f")) << 8])
    check(SYS_ioctl, argument: 1, equals: [UInt32(TIOCGWINSZ), UInt32(TCGETS), UInt32(FIONREAD)])
    for call in Self.plainCalls { allow(call) }
    checkThreads()
    // Netlink: how getaddrinfo(3) learns which addresses this host has.
    check(
      SYS_socket, argument: 0,
      equals: [UInt32(AF_UNIX), UInt32(AF_INET), UInt32(AF_INET6), UInt32(AF_NETLINK)])
    check(SYS_prctl, argument: 0, equals: [UInt32(PR_SET_NAME), UInt32(PR_GET_NAME)])
    check(SYS_prlimit64, argument: 0, equals: [0])
    check(SYS_tgkill, argument: 0, equals: [UInt32(bitPattern: processID)])
    append(
      UInt32(BPF_JMP | BPF_JGT | BPF_K), clinux_highest_system_call, ifTrue: 0, ifFalse: 1)
    refuse(ENOSYS)
    refuse(EPERM)
  }

  /// Installs it for every thread of the process, for ever. Needs no_new_privs or CAP_SYS_ADMIN.
  func install() throws(SystemError) {
    var program = instructions
    let count = UInt16(program.count)
    // Logged by the kernel's audit: a call that is missing here can be found.
    let flags = UInt32(SECCOMP_FILTER_FLAG_TSYNC) | UInt32(SECCOMP_FILTER_FLAG_LOG)
    let result = unsafe program.withUnsafeMutableBufferPointer { entries in
      // unsafe: the kernel copies the entries during the call.
      unsafe clinux_set_seccomp_filter(flags, entries.baseAddress, count)
    }
    guard result >= 0 else { throw SystemError("seccomp") }
    guard result == 0 else { throw SystemError("seccomp", "thread \(result)", .tryAgain) }
  }

  /// Of `struct seccomp_data`; asserted in linux_hardening.c.
  private enum Offset {
    static let number: UInt32 = 0
    static let architecture: UInt32 = 4

    /// The low half of an argument, on a little-endian machine.
    static func argument(_ position: UInt32) -> UInt32 { 16 + 8 * position }
  }

  private mutating func append(_ code: UInt32, _ value: UInt32, ifTrue: Int = 0, ifFalse: Int = 0) {
    invariant(
      ifTrue <= Self.longestJump && ifFalse <= Self.longestJump, "a filter's jumps are short")
    instructions.append(
      sock_filter(code: UInt16(code), jt: UInt8(ifTrue), jf: UInt8(ifFalse), k: value))
  }

  private mutating func load(_ offset: UInt32) {
    append(UInt32(BPF_LD | BPF_W | BPF_ABS), offset)
  }

  private mutating func finish(_ action: some BinaryInteger) {
    append(UInt32(BPF_RET | BPF_K), UInt32(truncatingIfNeeded: action))
  }

  private mutating func refuse(_ errno: Int32) {
    finish(UInt32(SECCOMP_RET_ERRNO) | UInt32(errno))
  }

  private mutating func whenEqual(_ value: UInt32, skip: Int, else otherwise: Int = 0) {
    append(UInt32(BPF_JMP | BPF_JEQ | BPF_K), value, ifTrue: skip, ifFalse: otherwise)
  }

  private mutating func allow(_ call: Int32) {
    whenEqual(UInt32(call), skip: 0, else: 1)
    finish(SECCOMP_RET_ALLOW)
  }

  /// Allows a call when the argument is one of the values; else goes on with the number loaded.
  private mutating func check(
    _ call: Int32, argument: UInt32, masked mask: UInt32? = nil, equals values: [UInt32]
  ) {
    let byteCount = (mask == nil ? 2 : 3) + 2 * values.count
    whenEqual(UInt32(call), skip: 0, else: byteCount)
    load(Offset.argument(argument))
    if let mask { append(UInt32(BPF_ALU | BPF_AND | BPF_K), mask) }
    for value in values {
      whenEqual(value, skip: 0, else: 1)
      finish(SECCOMP_RET_ALLOW)
    }
    load(Offset.number)
  }

  /// New threads, no new processes. clone3's flags lie in memory, where a filter cannot look:
  /// without it pthread_create(3) takes clone, whose flags it can.
  private mutating func checkThreads() {
    whenEqual(UInt32(SYS_clone3), skip: 0, else: 1)
    refuse(ENOSYS)
    whenEqual(UInt32(SYS_clone), skip: 0, else: 4)
    load(Offset.argument(0))
    append(UInt32(BPF_JMP | BPF_JSET | BPF_K), UInt32(CLONE_THREAD), ifTrue: 0, ifFalse: 1)
    finish(SECCOMP_RET_ALLOW)
    load(Offset.number)
  }
}
