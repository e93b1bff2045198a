/// How long a thread goes on looking before it sleeps until what it waits for comes. Pure.
///
/// Sleeping costs a fault more than its whole way through us: a processor that went idle has to be
/// woken, which takes from some microseconds to, in a VM on a busy host, most of a millisecond. So
/// who has just been asked looks for the next request for a while. The window follows what that is
/// worth, by the rule that KVM has for its guests' processors (Linux,
/// Documentation/virt/kvm/halt-polling.rst): it doubles after a wait that a longer look would have
/// caught, and closes after one that was longer than the window may ever be.
public struct BusyPollWindow: Hashable, Sendable {
  /// KVM's bound. Whoever waits longer than that for the next one has nobody who is in a hurry.
  public static let usualMaximumNanoseconds: UInt64 = 200_000
  /// Where it begins: about what a sleep costs a quiet host.
  static let smallestNanoseconds: UInt64 = 10_000

  /// It never becomes longer; 0 keeps it closed.
  public let maximumNanoseconds: UInt64
  /// How long to look now before sleeping; 0: not at all.
  public private(set) var nanoseconds: UInt64 = 0

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
}
