public import Pages

/// The verdict on a link, from heartbeats alone: whatever has been received shows that the peer
/// lives and that its direction works; a budget without anything shows that one of them does not.
/// Pure.
///
/// Each side judges what it *hears*, so a one-way loss is found by the side that has become deaf;
/// it closes the connection, and the other one finds out by that, or by its own silence (P7).
/// Bytes of pages count as well as heartbeats: a slow link that still carries something is alive.
///
/// The thread that owns the urgent connection runs it, so that a peer whose fault path hangs is
/// noticed, and a fsync that takes long on the session's thread is not mistaken for a loss.
public struct LinkMonitor: Sendable {
  /// The shortest budget: four heartbeats of 50 ms, each above what a busy core may hold one back.
  public static let minimumBudgetNanoseconds: UInt64 = 200_000_000
  /// Below what a guest's TCP takes for an outage, above what a scheduler does to us.
  public static let defaultBudgetNanoseconds: UInt64 = 1_000_000_000
  /// How long a destination may take for its first word on a link that has just come up. It comes a
  /// round trip after the welcome, and the first time it makes its bulk connections before, each
  /// with a handshake of its own. A destination that hears nothing either has begun to dial again
  /// long before. Only one that is lost in this direction alone, in this very moment, costs a guest
  /// that runs there already the whole of it.
  public static let setupNanoseconds: UInt64 = 10_000_000_000
  /// Heartbeats that fit into a budget: three may be lost or late.
  private static let heartbeatsPerBudget: UInt64 = 4

  /// What is to be done now.
  public enum Action: Hashable, Sendable {
    /// Nothing before `nextTick`.
    case nothing
    /// Send a ping with that number.
    case ping(sequence: UInt64)
    /// Nothing was heard for the whole budget: the link is lost.
    case lost
  }

  /// How long nothing may be heard.
  public let budgetNanoseconds: UInt64
  /// When something was heard last; at first, when the link came up, or later with a time for the
  /// first word.
  public private(set) var lastHeard: Instant
  /// The shortest round trip of a ping so far: the others met a busy core.
  public private(set) var shortestRoundTripNanoseconds: UInt64?
  private var hasHeard = false
  private var nextPing: Instant
  private var sequence: UInt64 = 0
  private var pinged: Instant?

  /// A link that has just come up. The first ping is due soon, for its round trip tells how exact
  /// a short migration's downtime is, but not amid the hand-over's first messages.
  ///
  /// - Parameter firstWordNanoseconds: how long the peer may be silent before it has said anything;
  ///   no less than the budget.
  public init(budgetNanoseconds: UInt64, now: Instant, firstWordNanoseconds: UInt64 = 0) {
    invariant(
      budgetNanoseconds >= Self.minimumBudgetNanoseconds, "a heartbeat budget is not too short")
    self.budgetNanoseconds = budgetNanoseconds
    lastHeard = now.advanced(
      byNanoseconds: max(firstWordNanoseconds, budgetNanoseconds) - budgetNanoseconds)
    nextPing = now.advanced(byNanoseconds: Self.interval(budgetNanoseconds) / 10)
  }

  /// When `tick` has something to do next.
  public var nextTick: Instant { min(nextPing, deadline) }

  /// When the link is lost, unless something is heard before.
  public var deadline: Instant { lastHeard.advanced(byNanoseconds: budgetNanoseconds) }

  /// Anything came from the peer: any byte counts.
  public mutating func heard(at now: Instant) {
    lastHeard = hasHeard ? max(lastHeard, now) : now
    hasHeard = true
  }

  /// The answer to a ping came; one to an earlier ping than the last measures nothing.
  public mutating func pong(_ sequence: UInt64, now: Instant) {
    guard sequence == self.sequence, let start = pinged else { return }
    pinged = nil
    let nanoseconds = now.nanoseconds(since: start)
    shortestRoundTripNanoseconds = min(shortestRoundTripNanoseconds ?? nanoseconds, nanoseconds)
  }

  /// Looks at the clock. Call it at `nextTick`, or at any time before; after `lost` the monitor has
  /// served, and a new link gets a new one.
  public mutating func tick(now: Instant) -> Action {
    if now >= deadline { return .lost }
    guard now >= nextPing else { return .nothing }
    nextPing = now.advanced(byNanoseconds: Self.interval(budgetNanoseconds))
    sequence += 1
    pinged = now
    return .ping(sequence: sequence)
  }

  private static func interval(_ budgetNanoseconds: UInt64) -> UInt64 {
    budgetNanoseconds / heartbeatsPerBudget
  }
}
