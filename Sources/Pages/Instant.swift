/// A moment on a monotonic clock of one host, as given from outside: pure code never reads a clock.
@frozen
public struct Instant: Hashable, Comparable, Sendable {
  /// Nanoseconds since an origin that only this host (or this simulation) knows.
  public let nanoseconds: UInt64

  /// The moment `nanoseconds` after the clock's origin.
  @inlinable
  public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

  /// Whether the left one comes first.
  @inlinable
  public static func < (left: Instant, right: Instant) -> Bool {
    left.nanoseconds < right.nanoseconds
  }

  /// Nanoseconds from `earlier` to `self`; 0 when `earlier` is the later one.
  @inlinable
  public func nanoseconds(since earlier: Instant) -> UInt64 {
    nanoseconds > earlier.nanoseconds ? nanoseconds - earlier.nanoseconds : 0
  }

  /// The moment `nanoseconds` later.
  @inlinable
  public func advanced(byNanoseconds nanoseconds: UInt64) -> Instant {
    Instant(nanoseconds: self.nanoseconds + nanoseconds)
  }
}
