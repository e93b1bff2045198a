internal import CLinux
internal import Glibc
internal import Pages
internal import System

/// A lock that owns its state and lets threads wait for the state to change, with a limit.
@safe
final class Monitor<State>: @unchecked Sendable {
  // All three stand at an address of their own for the monitor's whole life: pthread requires it.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let condition: UnsafeMutablePointer<pthread_cond_t>
  private let state: UnsafeMutablePointer<State>

  init(_ initial: consuming sending State) {
    unsafe mutex = .allocate(capacity: 1)
    unsafe condition = .allocate(capacity: 1)
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: initial)
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    // A limit must not move when somebody sets the wall clock.
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    let results = unsafe (
      pthread_mutex_init(mutex, nil), pthread_cond_init(condition, &attributes)
    )
    unsafe pthread_condattr_destroy(&attributes)
    invariant(results == (0, 0), "a mutex and a condition can be initialised")
  }

  // unsafe: the last reference is gone, so nobody holds the mutex or waits.
  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe pthread_mutex_destroy(mutex)
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
    unsafe condition.deallocate()
    unsafe mutex.deallocate()
  }

  /// Runs `body` with the lock held, then wakes all waiters to look again.
  @discardableResult
  func withLock<Result, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    // unsafe: the pointers live as long as self; the mutex makes the access exclusive.
    unsafe pthread_mutex_lock(mutex)
    defer {
      unsafe pthread_cond_broadcast(condition)
      unsafe pthread_mutex_unlock(mutex)
    }
    return try unsafe body(&state.pointee)
  }

  /// Waits until `body` returns something, or the deadline has passed: nil. No deadline: for ever.
  func wait<Result>(until deadline: Instant?, _ body: (inout State) -> Result?) -> Result? {
    // unsafe: as in withLock; pthread_cond_wait gives the mutex up only while it sleeps.
    unsafe pthread_mutex_lock(mutex)
    defer {
      unsafe pthread_cond_broadcast(condition)
      unsafe pthread_mutex_unlock(mutex)
    }
    while true {
      if let result = unsafe body(&state.pointee) { return result }
      guard let deadline else {
        unsafe pthread_cond_wait(condition, mutex)
        continue
      }
      var time = timespec(
        tv_sec: Int(deadline.nanoseconds / 1_000_000_000),
        tv_nsec: Int(deadline.nanoseconds % 1_000_000_000))
      if unsafe pthread_cond_timedwait(condition, mutex, &time) == ETIMEDOUT {
        return unsafe body(&state.pointee)
      }
    }
  }
}
