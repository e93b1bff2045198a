internal import CLinux
internal import Pages

/// Pages that follow one another and answer a question alike.
@frozen
public struct PagemapRun: Hashable, Sendable {
  /// Where they stand.
  public let range: HostRange
  /// Those of the reported categories that they have.
  public let categories: PageCategories

  /// Pages of `range` with those categories.
  @inlinable
  public init(range: HostRange, categories: PageCategories) {
    self.range = range
    self.categories = categories
  }
}

/// Room for the answers of one scan, allocated once by whoever scans.
@safe
public struct PagemapRunBuffer: ~Copyable, @unchecked Sendable {
  /// 4096 runs are 96 KiB: a scattered gigabyte takes 64 system calls at worst.
  public static let defaultCapacity = 4096

  /// How many runs one scan can bring.
  public let capacity: Int
  /// How many runs the last scan brought.
  public internal(set) var count = 0
  let regions: UnsafeMutablePointer<pagemap_abi_region>

  /// Room for `capacity` runs, at least one.
  public init(capacity: Int = Self.defaultCapacity) {
    invariant(capacity > 0, "a run buffer has room for a run")
    self.capacity = capacity
    unsafe self.regions = .allocate(capacity: capacity)
    unsafe self.regions.initialize(repeating: pagemap_abi_region(), count: capacity)
  }

  // unsafe: allocated in init with this type, and the only owner goes away here.
  deinit { unsafe regions.deallocate() }

  /// The run at `position`, counted from 0 and below `count`.
  public subscript(position: Int) -> PagemapRun {
    invariant(position >= 0 && position < count, "a run is one of those that were found")
    // unsafe: position is below count, which is at most the allocated capacity.
    let region = unsafe regions[position]
    return PagemapRun(
      range: HostRange(
        start: HostAddress(rawValue: region.start), end: HostAddress(rawValue: region.end)),
      categories: PageCategories(rawValue: region.categories))
  }
}
