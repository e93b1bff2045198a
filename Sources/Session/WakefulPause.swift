public import Pages
internal import System

/// Keeps this host's processors awake while the guest stands still on its way.
///
/// A hand-over is a dozen threads of four processes that wake one another; where idle processors
/// sleep, most of the guest's pause goes into that (Documentation/measurements.md, *Downtime*). A
/// host that does not let us has a longer pause and nothing else, so nobody is told.
public struct WakefulPause: ~Copyable {
  /// A pause that lasts longer waits for something else: a link, a VMM, memory.
  private static let longestNanoseconds: UInt64 = 1_000_000_000

  private var start: Instant?
  private var awake: AwakeProcessors?

  /// No pause yet.
  public init() {}

  /// Whether it is so now.
  var isAwake: Bool { awake != nil }

  /// Whether the guest stands still now. To be said with each change, and now and then.
  public mutating func note(isPaused: Bool, now: Instant) {
    guard isPaused else {
      start = nil
      awake = nil
      return
    }
    guard let start else {
      self.start = now
      awake = try? AwakeProcessors()
      return
    }
    if now.nanoseconds(since: start) > Self.longestNanoseconds { awake = nil }
  }
}
