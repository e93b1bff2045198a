internal import Pages
internal import Synchronization

/// A fixed number of 64-bit numbers that several threads read and write without a lock: histogram
/// buckets, slots of a ring.
@safe
public final class AtomicCounts: @unchecked Sendable {
  /// How many numbers.
  public let count: Int
  // Allocated in init, freed in deinit, never moved: atomics need an address of their own.
  private let numbers: UnsafeMutablePointer<Atomic<UInt64>>

  /// `count` zeros.
  public init(count: Int) {
    invariant(count > 0, "there is at least one number")
    self.count = count
    unsafe numbers = .allocate(capacity: count)
    for index in 0..<count { unsafe (numbers + index).initialize(to: Atomic(0)) }
  }

  // unsafe: the last reference is gone, so no thread uses the numbers.
  deinit {
    unsafe numbers.deinitialize(count: count)
    unsafe numbers.deallocate()
  }

  /// Adds to one number; relaxed.
  public func add(_ amount: UInt64, at index: Int) {
    checkIndex(index)
    // unsafe: the index was checked.
    unsafe numbers[index].wrappingAdd(amount, ordering: .relaxed)
  }

  /// Replaces one number; relaxed.
  public func store(_ value: UInt64, at index: Int) {
    checkIndex(index)
    // unsafe: the index was checked.
    unsafe numbers[index].store(value, ordering: .relaxed)
  }

  /// One number; relaxed.
  public func load(_ index: Int) -> UInt64 {
    checkIndex(index)
    // unsafe: the index was checked.
    return unsafe numbers[index].load(ordering: .relaxed)
  }

  /// All numbers, one after the other.
  public func values() -> [UInt64] { (0..<count).map { load($0) } }

  private func checkIndex(_ index: Int) {
    invariant(index >= 0 && index < count, "an index lies among the numbers")
  }
}
