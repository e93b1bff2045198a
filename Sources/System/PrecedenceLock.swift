internal import Glibc
internal import Pages
internal import Synchronization

/// A lock like `Lock` that one thread never waits for longer than one hold of another.
///
/// A mutex belongs to whoever comes first, and a thread that gives it back and takes it again comes
/// sooner than one that has to be woken for it: in a loop it keeps the others out for as long as
/// the loop takes. Here the thread that has claimed precedence is let by: whoever else would take
/// the lock meanwhile waits until it has had it. They may wait for long where it is hardly ever
/// without a wish for it.
@safe
public final class PrecedenceLock<State: ~Copyable>: @unchecked Sendable {
  // All three stand at an address of their own for the lock's whole life: pthread requires it.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let hasPassed: UnsafeMutablePointer<pthread_cond_t>
  private let state: UnsafeMutablePointer<State>
  /// How many threads let another one by. Guarded by the mutex.
  private var givingWayCount = 0
  /// The thread with precedence; 0 while there is none, which is no thread.
  private let first = Atomic<UInt>(0)
  private let isAwaited = Atomic<Bool>(false)

  /// A lock that is open, around `initial`.
  public init(_ initial: consuming sending State) {
    unsafe mutex = .allocate(capacity: 1)
    unsafe hasPassed = .allocate(capacity: 1)
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: initial)
    let results = unsafe (pthread_mutex_init(mutex, nil), pthread_cond_init(hasPassed, nil))
    invariant(results == (0, 0), "a pthread mutex and a condition can be initialised")
  }

  // unsafe: the last reference is gone, so nobody holds or waits for the mutex.
  deinit {
    unsafe pthread_cond_destroy(hasPassed)
    unsafe pthread_mutex_destroy(mutex)
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
    unsafe hasPassed.deallocate()
    unsafe mutex.deallocate()
  }

  /// The calling thread has precedence from now on, and whichever had it before no more.
  public func claimPrecedence() { first.store(pthread_self(), ordering: .relaxed) }

  /// Nobody has precedence any more. By the thread that had it, before it ends: another one may get
  /// its number.
  public func giveUpPrecedence() { first.store(0, ordering: .relaxed) }

  /// Whether the thread with precedence waits for the lock.
  public var isAwaitedByFirst: Bool { isAwaited.load(ordering: .relaxed) }

  /// Runs `body` with the lock held. Do not call it again from inside: it would wait forever.
  @discardableResult
  public func withLock<Result: ~Copyable, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    // unsafe: the pointers live as long as self; the mutex makes the access to state exclusive.
    let isFirst = first.load(ordering: .relaxed) == pthread_self()
    if isFirst { isAwaited.store(true, ordering: .relaxed) }
    unsafe pthread_mutex_lock(mutex)
    if isFirst {
      isAwaited.store(false, ordering: .relaxed)
    } else {
      giveWay()
    }
    defer {
      if isFirst, givingWayCount > 0 { unsafe pthread_cond_broadcast(hasPassed) }
      unsafe pthread_mutex_unlock(mutex)
    }
    return try unsafe body(&state.pointee)
  }

  /// Waits, with the mutex held and given back meanwhile, until the thread with precedence has had
  /// it. That one is on its way to the mutex, and signals behind its hold.
  private func giveWay() {
    while isAwaited.load(ordering: .relaxed) {
      givingWayCount += 1
      unsafe pthread_cond_wait(hasPassed, mutex)
      givingWayCount -= 1
    }
  }
}
