internal import CLiburing
internal import Glibc
internal import Pages
internal import System

/// An io_uring that one thread owns, together with the memory that its operations read and write.
///
/// Operations name ranges of the ring's own memory, so the kernel can never write into memory that
/// was given back. Queue operations, then `submitAndWait`, then `reap` into a batch of the caller's
/// and look at the completions: nothing is called back from inside the reaping loop, so handling
/// one completion can queue any number of operations without recursion.
@safe
public struct Ring: ~Copyable, @unchecked Sendable {
  /// Bounds what `CompletionBatch` takes at once; one thread has a handful of operations in flight.
  public static let maximumEntryCount = 64

  // On the heap: liburing's structure must not move.
  private let ring: UnsafeMutablePointer<io_uring>
  private var memory: TransferBuffer
  /// Operations whose completion is still to come; sends that the kernel finishes at once are not
  /// among them.
  private var pendingCount = 0

  /// Makes a ring of `entryCount` submission entries and its memory. It is disabled until the
  /// thread that will own it calls `activate`, which may be another one than the caller.
  public init(entryCount: Int, memoryByteCount: Int) throws(RingError) {
    invariant(
      entryCount > 0 && entryCount <= Self.maximumEntryCount, "a ring has 1 to 64 entries")
    let memory = try Self.map(memoryByteCount)
    unsafe ring = try Self.setUp(entryCount: UInt32(entryCount))
    self.memory = memory
  }

  deinit {
    // unsafe: nothing is in flight, so the kernel holds no pointer into `memory` any more, which
    // is unmapped after this.
    invariant(pendingCount == 0, "a ring is drained by cancelAll before it goes")
    unsafe io_uring_queue_exit(ring)
    unsafe ring.deallocate()
  }

  private static func map(_ byteCount: Int) throws(RingError) -> TransferBuffer {
    do throws(SystemError) {
      return try TransferBuffer(byteCount: byteCount)
    } catch {
      throw RingError(operation: .memory, errno: error.errno)
    }
  }

  /// Tries the flags that save wake-ups first and goes without them on an older kernel.
  private static func setUp(
    entryCount: UInt32
  ) throws(RingError) -> UnsafeMutablePointer<io_uring> {
    let required: UInt32 = IORING_SETUP_R_DISABLED | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL
    let attempts: [UInt32] = [
      // 6.1: completions are run by the owner when it waits, never by an interrupt of its work.
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
      // 5.19
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    ]
    // unsafe: given back below on every failure, else by `deinit`.
    let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
    unsafe ring.initialize(to: io_uring())
    do throws(RingError) {
      var result: Int32 = -EINVAL
      for flags in attempts where result == -EINVAL {
        result = unsafe io_uring_queue_init(entryCount, ring, required | flags)
      }
      guard result == 0 else {
        throw RingError(operation: .setup, errno: Errno(rawValue: -result))
      }
      let needed: UInt32 = IORING_FEAT_CQE_SKIP | IORING_FEAT_NODROP
      if unsafe ring.pointee.features & needed != needed {
        unsafe io_uring_queue_exit(ring)
        throw RingError(operation: .features, errno: .notSupported)
      }
      try unsafe restrict(ring)
    } catch {
      unsafe ring.deallocate()
      throw error
    }
    return unsafe ring
  }

  /// A seccomp filter does not see what a ring does, so the ring itself is limited to what we use.
  private static func restrict(_ ring: UnsafeMutablePointer<io_uring>) throws(RingError) {
    var allowed: [io_uring_restriction] = []
    for operation in [IORING_OP_POLL_ADD, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_ASYNC_CANCEL] {
      var restriction = io_uring_restriction()
      restriction.opcode = UInt16(IORING_RESTRICTION_SQE_OP)
      restriction.sqe_op = UInt8(operation.rawValue)
      allowed.append(restriction)
    }
    var flags = io_uring_restriction()
    flags.opcode = UInt16(IORING_RESTRICTION_SQE_FLAGS_ALLOWED)
    flags.sqe_flags = skipSuccess
    allowed.append(flags)
    for operation in [
      IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_RING_FDS, IORING_UNREGISTER_RING_FDS,
    ] {
      var restriction = io_uring_restriction()
      restriction.opcode = UInt16(IORING_RESTRICTION_REGISTER_OP)
      restriction.register_op = UInt8(operation)
      allowed.append(restriction)
    }
    let count = UInt32(allowed.count)
    let result = unsafe allowed.withUnsafeMutableBufferPointer { entries in
      // unsafe: the entries live through the call, which copies them.
      unsafe io_uring_register(
        UInt32(ring.pointee.ring_fd), UInt32(IORING_REGISTER_RESTRICTIONS), entries.baseAddress,
        count)
    }
    guard result == 0 else {
      unsafe io_uring_queue_exit(ring)
      throw RingError(operation: .restrict, errno: Errno(rawValue: -result))
    }
  }

  private static let skipSuccess = UInt8(1 << IOSQE_CQE_SKIP_SUCCESS_BIT)

  /// Enables the ring for the calling thread, the only one that may use it from now on.
  public mutating func activate() throws(RingError) {
    // unsafe: `ring` is this one's own.
    let result = unsafe io_uring_register(
      UInt32(ring.pointee.ring_fd), UInt32(IORING_REGISTER_ENABLE_RINGS), nil, 0)
    guard result == 0 else {
      throw RingError(operation: .activate, errno: Errno(rawValue: -result))
    }
    // Saves the descriptor lookup in each io_uring_enter; without it all works, a little slower.
    _ = unsafe io_uring_register_ring_fd(ring)
  }

  // MARK: The ring's memory

  /// The bytes of a range of the ring's memory. Do not read what a pending receive may write.
  @_lifetime(borrow self)
  public borrowing func bytes(_ range: Range<Int>) -> RawSpan { memory.bytes(range) }

  /// A range of the ring's memory, to write. No pending operation may use it.
  @_lifetime(&self)
  public mutating func mutableBytes(_ range: Range<Int>) -> MutableRawSpan {
    memory.mutableBytes(range)
  }

  /// Copies bytes into the ring's memory, where no pending operation may use them.
  public mutating func store(_ bytes: RawSpan, at offset: Int) { memory.store(bytes, at: offset) }

  /// Moves bytes inside the ring's memory; the ranges may overlap.
  public mutating func move(_ source: Range<Int>, to target: Int) {
    memory.move(source, to: target)
  }

  func address(_ range: Range<Int>) -> UnsafeMutableRawPointer { unsafe memory.address(range) }

  // MARK: Operations

  /// Reports once that the descriptor is ready. Level-triggered: what is ready already is reported
  /// by the next `submitAndWait`, so arming it again in the call that waits loses nothing.
  public mutating func poll(
    _ descriptor: Int32, for readiness: PollReadiness = .readable, tag: RingTag
  ) throws(RingError) {
    try unsafe enqueue(.poll, tag) { entry in
      unsafe io_uring_prep_poll_add(entry, descriptor, readiness.rawValue)
    }
  }

  /// Receives once, at least one byte and at most the range. It waits first and looks then: who
  /// queues a receive has mostly just taken what was there.
  public mutating func receive(
    from descriptor: Int32, into range: Range<Int>, tag: RingTag
  ) throws(RingError) {
    let target = unsafe memory.address(range)
    try unsafe enqueue(.receive, tag) { entry in
      // unsafe: the range stays mapped until the completion: deinit requires that none is pending.
      unsafe io_uring_prep_recv(entry, descriptor, target, range.count, 0)
      unsafe entry.pointee.ioprio = UInt16(IORING_RECVSEND_POLL_FIRST)
    }
  }

  /// Sends the range inside the next `submitAndWait`, without waiting for room. A complete send has
  /// no completion; one that fell short reports how many bytes went (`sendFellShort`). So after
  /// that call returned, and the completions are seen, the range is free again.
  public mutating func sendNow(
    to descriptor: Int32, from range: Range<Int>, tag: RingTag
  ) throws(RingError) {
    let source = unsafe memory.address(range)
    let flags = SocketFlags.dontWait | SocketFlags.waitAll | SocketFlags.noSignal
    try unsafe enqueue(.send, tag) { entry in
      // unsafe: the send ends inside io_uring_enter (MSG_DONTWAIT), while self is borrowed.
      unsafe io_uring_prep_send(entry, descriptor, source, range.count, flags)
      unsafe entry.pointee.flags |= Self.skipSuccess
    }
    // See `pendingCount`.
    pendingCount -= 1
  }

  private mutating func enqueue(
    _ operation: RingOperation, _ tag: RingTag,
    prepare: (UnsafeMutablePointer<io_uring_sqe>) -> Void
  ) throws(RingError) {
    var entry = unsafe io_uring_get_sqe(ring)
    if unsafe entry == nil {
      // Full is normal: hand what is queued to the kernel, which empties the queue.
      try submit(waitingFor: 0)
      unsafe entry = io_uring_get_sqe(ring)
    }
    guard let entry = unsafe entry else { throw RingError(operation: .enter, errno: .tryAgain) }
    // unsafe: liburing handed out this entry, and it is ours until the next submit.
    unsafe prepare(entry)
    unsafe io_uring_sqe_set_data64(entry, operation.userData(tag))
    pendingCount += 1
  }

  // MARK: The kernel

  /// Operations that the kernel has not taken yet: 0 after `submitAndWait`, unless a signal or a
  /// lack of memory came first. A `sendNow` has ended only once this is 0.
  public var unsubmittedCount: Int { Int(unsafe io_uring_sq_ready(ring)) }

  /// Hands every queued operation to the kernel and waits until `count` completions are there, all
  /// in one system call. Returns without any when a signal, or the end of `nanoseconds`, came
  /// first; without a limit it waits for ever.
  public mutating func submitAndWait(
    for count: Int = 1, atMost nanoseconds: UInt64? = nil
  ) throws(RingError) {
    try submit(waitingFor: UInt32(count), atMost: count == 0 ? nil : nanoseconds)
  }

  /// What io_uring_enter may answer:
  /// EINTR: a signal; the caller looks at the completions and comes back. EAGAIN: no memory for a
  /// request, EBUSY: completions overflowed; both clear once the caller reaps. EEXIST, EBADFD: a
  /// bug of ours (wrong thread, not activated). Everything else goes up with its number.
  /// ETIME: the time is over.
  private mutating func submit(
    waitingFor count: UInt32, atMost nanoseconds: UInt64? = nil
  ) throws(RingError) {
    var wanted = count
    // Each pass hands over at least one entry, or ends.
    for _ in 0...Self.maximumEntryCount {
      let result = enter(waitingFor: wanted, atMost: nanoseconds)
      if result < 0 {
        let errno = Errno(rawValue: -result)
        if errno == .interrupted || errno == .tryAgain || errno.rawValue == EBUSY
          || errno.rawValue == ETIME
        {
          return
        }
        throw RingError(operation: .enter, errno: errno)
      }
      if unsafe io_uring_sq_ready(ring) == 0 { return }
      wanted = 0
    }
  }

  private mutating func enter(waitingFor count: UInt32, atMost nanoseconds: UInt64?) -> Int32 {
    guard let nanoseconds, count > 0 else {
      // unsafe: `ring` is this one's own.
      return unsafe io_uring_submit_and_wait(ring, count)
    }
    var limit = __kernel_timespec()
    limit.tv_sec = Int64(nanoseconds / 1_000_000_000)
    limit.tv_nsec = Int64(nanoseconds % 1_000_000_000)
    var completion: UnsafeMutablePointer<io_uring_cqe>? = nil
    // unsafe: `ring` is this one's own; both local variables live through the call. The completion
    // stays in the ring: `reap` takes it.
    return unsafe io_uring_submit_and_wait_timeout(ring, &completion, count, &limit, nil)
  }

  /// Moves the completions that are there into the batch, which they replace. Never waits and
  /// never enters the kernel; the rest, if it was full, comes with the next call.
  public mutating func reap(into batch: inout CompletionBatch) {
    batch.removeAll()
    while !batch.isFull {
      var completion: UnsafeMutablePointer<io_uring_cqe>? = nil
      // unsafe: `ring` is this one's own; the completion is ours until cq_advance.
      guard unsafe io_uring_peek_cqe(ring, &completion) == 0,
        let completion = unsafe completion
      else { return }
      let userData = unsafe completion.pointee.user_data
      let result = unsafe completion.pointee.res
      unsafe io_uring_cq_advance(ring, 1)
      let operation = RingOperation(userData: userData)
      if operation != .send { pendingCount -= 1 }
      batch.append(
        Completion(operation: operation, tag: RingTag(userData: userData), result: result))
    }
  }

  /// Cancels everything in flight and waits until the kernel has let go of the ring's memory.
  /// The owner calls it before the ring goes; completions that come meanwhile are dropped.
  public mutating func cancelAll() throws(RingError) {
    var batch = CompletionBatch()
    reap(into: &batch)
    guard pendingCount > 0 else { return }
    try unsafe enqueue(.cancel, RingTag(rawValue: 0)) { entry in
      let flags = Int32(IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL)
      unsafe io_uring_prep_cancel64(entry, 0, flags)
    }
    while pendingCount > 0 {
      try submitAndWait()
      reap(into: &batch)
    }
  }
}
