/// How long a thread goes on looking before it sleeps until what it waits for comes. Pure.
///
/// Sleeping costs a fault more than its whole way through us: a processor that went idle has to be
/// woken, which takes from some microseconds to, in a VM on a busy host, most of a millisecond. So
/// who has just been asked looks for the next request for a while. The window follows what that is
/// worth, by the rule that KVM has for its guests' processors (Linux,
/// Documentation/virt/kvm/halt-polling.rst): it doubles after a wait that a longer look would have
/// caught, and closes after one that was longer than the window may ever be.
///
/// A thread that goes before others must not keep its processor for itself, and the kernel sees to
/// that badly: one with a real-time priority that never sleeps is stopped for 50 ms in every second
/// (sched_rt_runtime_us), and a fault then waits as long. So of every tenth of a second a fifth is
/// slept; else there is no looking for the rest of it.
public struct BusyPollWindow: Hashable, Sendable {
  /// KVM's bound. Whoever waits longer than that for the next one has nobody who is in a hurry.
  public static let usualMaximumNanoseconds: UInt64 = 200_000
  /// Where it begins: about what a sleep costs a quiet host.
  static let smallestNanoseconds: UInt64 = 10_000
  /// The stretch of time whose share is kept.
  static let periodNanoseconds: UInt64 = 100_000_000
  /// How long the thread may be awake in one.
  static let longestAwakeNanoseconds: UInt64 = 80_000_000

  /// It never becomes longer; 0 keeps it closed.
  public let maximumNanoseconds: UInt64
  /// How long a look is worth now; 0: not at all.
  public private(set) var nanoseconds: UInt64 = 0

  private var periodStart = Instant(nanoseconds: 0)
  private var sleptNanoseconds: UInt64 = 0
  private var hasRoom = false

  /// A closed window.
  public init(maximumNanoseconds: UInt64) { self.maximumNanoseconds = maximumNanoseconds }

  /// Takes in how long it took until something came, looking and sleeping together.
  public mutating func note(waitedNanoseconds: UInt64) {
    if waitedNanoseconds > maximumNanoseconds {
      nanoseconds = 0
    } else if waitedNanoseconds > nanoseconds {
      nanoseconds = min(maximumNanoseconds, max(Self.smallestNanoseconds, 2 * nanoseconds))
    }
  }

  /// Takes in how long the thread slept.
  public mutating func note(sleptNanoseconds: UInt64) { self.sleptNanoseconds += sleptNanoseconds }

  /// Whether a period has to be begun before the next look.
  public func needsPeriod(at now: Instant) -> Bool {
    nanoseconds > 0 && now.nanoseconds(since: periodStart) >= Self.periodNanoseconds
  }

  /// Begins a period. `hasRoom`: whether the host has a processor that nobody else wants.
  public mutating func beginPeriod(at now: Instant, hasRoom: Bool) {
    periodStart = now
    sleptNanoseconds = 0
    self.hasRoom = hasRoom
  }

  /// How long to look from now on before sleeping; 0: not at all.
  public func lookNanoseconds(at now: Instant) -> UInt64 {
    guard nanoseconds > 0, hasRoom else { return 0 }
    let elapsed = now.nanoseconds(since: periodStart)
    let awake = elapsed - min(elapsed, sleptNanoseconds)
    return min(nanoseconds, Self.longestAwakeNanoseconds - min(awake, Self.longestAwakeNanoseconds))
  }
}
