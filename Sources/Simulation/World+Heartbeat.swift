internal import Migration
internal import Pages
internal import Wire

/// Both sides' link monitors, and P7.
extension World {
  /// A link monitor counts in the real world's milliseconds, and everything here happens a hundred
  /// times as fast.
  private static let monitorScale: UInt64 = 100

  var monitorNow: Instant { Instant(nanoseconds: nanoseconds * Self.monitorScale) }

  /// How late the verdict may be: the monitor looks at the clock four times in a budget.
  private var tickNanoseconds: UInt64 { plan.budgetNanoseconds / 4 }

  mutating func beginHeartbeats(_ side: Side) {
    guard let connection = hosts[side.rawValue].connection else { return }
    // As the page server does: the destination's first word may take longer.
    let firstWord = side == .source ? LinkMonitor.setupNanoseconds : 0
    hosts[side.rawValue].monitor = LinkMonitor(
      budgetNanoseconds: plan.budgetNanoseconds * Self.monitorScale, now: monitorNow,
      firstWordNanoseconds: firstWord)
    hosts[side.rawValue].isLinkDoubted = false
    hosts[side.rawValue].reachedNanoseconds = nanoseconds
    hosts[side.rawValue].silenceNanoseconds = max(
      plan.budgetNanoseconds, firstWord / Self.monitorScale)
    agenda.add(.heartbeat(side, connection: connection), at: nanoseconds)
  }

  mutating func heard(_ side: Side) {
    let now = monitorNow
    hosts[side.rawValue].monitor?.heard(at: now)
    hosts[side.rawValue].isLinkDoubted = false
  }

  mutating func heartbeat(_ side: Side, connection: Int) {
    let now = monitorNow
    guard hosts[side.rawValue].isAlive, hosts[side.rawValue].connection == connection,
      let action = hosts[side.rawValue].monitor?.tick(now: now)
    else { return }
    switch action {
    case .nothing: break
    case .ping(let sequence): send(.control(.ping(sequence: sequence)), from: side)
    case .lost:
      if mutation == .lossNeverNoticed { return }
      guard hosts[side.rawValue].isLinkDoubted || mutation == .silenceNotDoubted else {
        // A process that was stopped looks first at what has come meanwhile.
        hosts[side.rawValue].isLinkDoubted = true
        agenda.add(.heartbeat(side, connection: connection), at: nanoseconds + 1000)
        return
      }
      return giveUpSilentLink(side)
    }
    guard let next = hosts[side.rawValue].monitor?.nextTick else { return }
    let rounded = (next.nanoseconds + Self.monitorScale - 1) / Self.monitorScale
    agenda.add(
      .heartbeat(side, connection: connection), at: max(rounded, nanoseconds + 1))
  }

  private mutating func giveUpSilentLink(_ side: Side) {
    let silence = nanoseconds - hosts[side.rawValue].reachedNanoseconds
    if silence < hosts[side.rawValue].silenceNanoseconds {
      violate("P7", "the \(side) gives its link up though something came \(silence) ns ago")
    }
    silenceCount += 1
    note("the \(side) hears nothing")
    loseLink(side, Refusal(.timeout, "nothing was heard for the heartbeat budget"))
  }

  /// Something is in the kernel of the process, whether it is read yet or not: the link works.
  mutating func reached(_ side: Side) {
    hosts[side.rawValue].reachedNanoseconds = nanoseconds
    hosts[side.rawValue].silenceNanoseconds = plan.budgetNanoseconds
  }

  /// P7, on every step: who hears nothing for the budget and a tick has given its link up. A
  /// process that was stopped has the time from its going on.
  mutating func checkDetection() {
    for side in Side.allCases {
      let host = hosts[side.rawValue]
      guard host.connection != nil, host.isAlive, host.stalledUntil <= nanoseconds else {
        continue
      }
      let heard = host.reachedNanoseconds + host.silenceNanoseconds
      let deadline = max(heard, host.stalledUntil) + tickNanoseconds
      if nanoseconds > deadline {
        violate(
          "P7",
          "the \(side) has heard nothing since \(host.reachedNanoseconds) ns and keeps its link")
      }
    }
  }
}
