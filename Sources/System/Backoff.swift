internal import Glibc

/// Pauses between attempts at something that another thread has to make possible: short at first,
/// then longer, up to a bound. It sleeps rather than yields: a real-time thread that yields lets no
/// ordinary thread run.
public struct Backoff: Sendable {
  /// The kernel's own timer slack makes anything shorter pointless.
  private static let firstNanoseconds = 5_000
  /// Long enough to cost no processor, short enough that nobody waits for it.
  private static let longestNanoseconds = 1_000_000

  private var nanoseconds = firstNanoseconds

  /// Starts with the shortest pause.
  public init() {}

  /// Sleeps, and doubles the next pause.
  public mutating func pause() {
    var time = timespec(tv_sec: 0, tv_nsec: nanoseconds)
    unsafe nanosleep(&time, nil)
    nanoseconds = min(nanoseconds * 2, Self.longestNanoseconds)
  }
}
