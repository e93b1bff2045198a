internal import Glibc
internal import Pages

/// A mutual-exclusion lock over `pthread_mutex_t` that owns the state it protects.
///
/// Not `Synchronization.Mutex`: ThreadSanitizer reports false races under it (Swift 6.3).
@safe
public final class Lock<State: ~Copyable>: @unchecked Sendable {
  // Both stand at an address of their own for the lock's whole life: pthread requires it.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let state: UnsafeMutablePointer<State>

  /// A lock that is open, around `initial`.
  public init(_ initial: consuming sending State) {
    unsafe mutex = .allocate(capacity: 1)
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: initial)
    let result = unsafe pthread_mutex_init(mutex, nil)
    invariant(result == 0, "a pthread mutex can be initialised")
  }

  // unsafe: the last reference is gone, so nobody holds or waits for the mutex.
  deinit {
    unsafe pthread_mutex_destroy(mutex)
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
    unsafe mutex.deallocate()
  }

  /// Runs `body` with the lock held. Do not call it again from inside: it would wait forever.
  @discardableResult
  public func withLock<Result: ~Copyable, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    // unsafe: both pointers live as long as self; the mutex makes the access to state exclusive.
    unsafe pthread_mutex_lock(mutex)
    defer { unsafe pthread_mutex_unlock(mutex) }
    return try unsafe body(&state.pointee)
  }
}
