public import Pages

/// Decides what the source pushes next, when nobody waits for anything.
///
/// Pure and deterministic: the same demands and claims give the same runs. One thread at a time
/// may use a policy; after `init` it allocates nothing. A run is one *step*: at most 64 KiB, or one
/// page where pages are larger, so that a demand never waits behind more than that.
public protocol PrefetchPolicy: Sendable {
  /// The destination asked for these pages. They are claimed already, or will be by whoever
  /// answers. The run lies inside the image.
  mutating func noteDemand(_ run: PageRun)

  /// The run to push now: inside one region, every page of it unclaimed, one step long at most.
  /// nil once every page of the image is claimed.
  ///
  /// The caller claims the run before it asks again.
  mutating func next(skipping claimed: borrowing some ClaimedPages & ~Copyable) -> PageRun?
}

/// The policies, by the names that users give them.
public enum PrefetchKind: String, CaseIterable, Hashable, Sendable {
  /// The whole image in order: `LinearScan`.
  case linear
  /// Growing bubbles around the latest faults, then the whole image: `Bubbling`.
  case bubbling

  /// A policy of this kind for an image; allocates all that it will ever need.
  public func makePolicy(for layout: ImageLayout) -> any PrefetchPolicy {
    switch self {
    case .linear: LinearScan(layout: layout)
    case .bubbling: Bubbling(layout: layout)
    }
  }
}

/// How much one step of a policy may push.
public enum PrefetchStep {
  /// 64 KiB: about 50 µs on a 10 Gbit/s link, the longest that a demand may find the bulk thread
  /// busy on a shared core.
  public static let maximumByteCount = 65_536

  /// Pages of that size in one step; one where a page is larger than a step.
  @inlinable
  public static func pageCount(of size: PageSize) -> Int {
    max(1, maximumByteCount / size.byteCount)
  }
}
