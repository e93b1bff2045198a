internal import CLinux
internal import Glibc
internal import Pages
internal import System

extension UserfaultHandle {
  /// Puts a copy of `bytes` at `base`, in whole pages that are missing, and wakes who waits there.
  ///
  /// - Parameters:
  ///   - waking: whether waiters are woken; false for neighbours that one `wake` covers later.
  ///   - writeProtected: whether the pages come write-protected; needs a range registered for it.
  public func copy(
    _ bytes: RawSpan, to base: HostAddress, waking: Bool = true, writeProtected: Bool = false
  ) throws(UFFDError) -> RangeOutcome {
    // unsafe: the span keeps its memory alive and unchanged for the length of the call.
    try unsafe bytes.withUnsafeBytes { memory throws(UFFDError) in
      try unsafe copy(memory, to: base, waking: waking, writeProtected: writeProtected)
    }
  }

  /// The same from memory that the caller keeps mapped during the call. What is not mapped is
  /// EFAULT and thrown.
  public func copy(
    _ bytes: UnsafeRawBufferPointer, to base: HostAddress, waking: Bool = true,
    writeProtected: Bool = false
  ) throws(UFFDError) -> RangeOutcome {
    var argument = uffd_abi_copy()
    argument.dst = base.rawValue
    argument.src = UInt64(UInt(bitPattern: bytes.baseAddress))
    argument.len = UInt64(bytes.count)
    argument.mode =
      (waking ? 0 : uffd_copy_mode_dontwake) | (writeProtected ? uffd_copy_mode_wp : 0)
    let errno = control(uffd_request_copy, &argument)
    let range = HostRange(start: base, byteCount: ByteCount(bytes.count))
    return try outcome(.copy, range, errno, doneByteCount: argument.copy)
  }

  /// Maps zeros at `range`, in whole pages that are missing. Not offered on huge pages.
  public func zero(_ range: HostRange, waking: Bool = true) throws(UFFDError) -> RangeOutcome {
    try fill(.zero, uffd_request_zeropage, range, waking ? 0 : uffd_zeropage_mode_dontwake)
  }

  /// Maps what the page cache holds at `range`: the answer to a minor fault (UFFDIO_CONTINUE).
  public func mapCached(
    _ range: HostRange, waking: Bool = true, writeProtected: Bool = false
  ) throws(UFFDError) -> RangeOutcome {
    try fill(
      .mapCached, uffd_request_continue, range,
      (waking ? 0 : uffd_continue_mode_dontwake) | (writeProtected ? uffd_continue_mode_wp : 0))
  }

  /// Makes later accesses to `range` fail: SIGBUS in a thread, a machine check in a KVM guest.
  public func poison(_ range: HostRange, waking: Bool = true) throws(UFFDError) -> RangeOutcome {
    try fill(.poison, uffd_request_poison, range, waking ? 0 : uffd_poison_mode_dontwake)
  }

  /// Moves the pages at `source` to `range`, without a copy; both belong to the process that made
  /// the descriptor. Pages that are shared or pinned are EBUSY and thrown.
  ///
  /// - Parameter allowingHoles: whether a source page that is not there is left out without a word.
  public func move(
    from source: HostAddress, to range: HostRange, waking: Bool = true, allowingHoles: Bool = false
  ) throws(UFFDError) -> RangeOutcome {
    var argument = uffd_abi_move()
    argument.dst = range.start.rawValue
    argument.src = source.rawValue
    argument.len = range.byteCount.rawValue
    argument.mode =
      (waking ? 0 : uffd_move_mode_dontwake)
      | (allowingHoles ? uffd_move_mode_allow_src_holes : 0)
    let errno = control(uffd_request_move, &argument)
    return try outcome(.move(source: source), range, errno, doneByteCount: argument.move)
  }

  /// Protects `range` against writing, or lifts that and wakes the writers who wait.
  ///
  /// - Parameter waking: whether waiters are woken when the protection is lifted; the kernel
  ///   refuses to be told about it when protecting.
  public func writeProtect(
    _ range: HostRange, isProtected: Bool = true, waking: Bool = true
  ) throws(UFFDError) -> RangeOutcome {
    var argument = uffd_abi_writeprotect(range: range.argument, mode: 0)
    if isProtected {
      argument.mode = uffd_writeprotect_mode_wp
    } else if !waking {
      argument.mode = uffd_writeprotect_mode_dontwake
    }
    let errno = control(uffd_request_writeprotect, &argument)
    return try outcome(.writeProtect, range, errno, doneByteCount: 0)
  }

  private func fill(
    _ operation: UFFDOperation, _ request: UInt, _ range: HostRange, _ mode: UInt64
  ) throws(UFFDError) -> RangeOutcome {
    // The answer field starts as 0: older kernels leave it alone when they say EAGAIN.
    var argument = uffd_abi_fill(range: range.argument, mode: mode, done: 0)
    let errno = control(request, &argument)
    return try outcome(operation, range, errno, doneByteCount: argument.done)
  }

  /// What the error number and the signed answer field mean together.
  private func outcome(
    _ operation: UFFDOperation, _ range: HostRange, _ errno: Int32, doneByteCount: Int64
  ) throws(UFFDError) -> RangeOutcome {
    switch errno {
    case 0: return .complete
    // A field below 1 repeats the errno, or was never written: both say that nothing was done.
    case EAGAIN:
      return doneByteCount > 0 ? .partial(ByteCount(rawValue: UInt64(doneByteCount))) : .retry
    case EEXIST: return .exists
    case ESRCH: return .gone
    case ENOENT: return .noMapping
    case ENOMEM: return .outOfMemory
    default: throw error(operation, range, errno)
    }
  }
}
