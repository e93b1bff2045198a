import Migration
import Pages
import Testing

@Suite struct LinkMonitorTests {
  private static let start = Instant(nanoseconds: 5_000_000_000)
  private static let budget: UInt64 = 1_000_000_000

  private func instant(_ milliseconds: UInt64) -> Instant {
    Self.start.advanced(byNanoseconds: milliseconds * 1_000_000)
  }

  private func monitor() -> LinkMonitor {
    LinkMonitor(budgetNanoseconds: Self.budget, now: Self.start)
  }

  @Test func pingsFourTimesInABudget() {
    var monitor = monitor()
    #expect(monitor.tick(now: instant(24)) == .nothing)
    #expect(monitor.nextTick == instant(25))
    #expect(monitor.tick(now: instant(25)) == .ping(sequence: 1))
    #expect(monitor.tick(now: instant(274)) == .nothing)
    #expect(monitor.nextTick == instant(275))
    #expect(monitor.tick(now: instant(275)) == .ping(sequence: 2))
    #expect(monitor.nextTick == instant(525))
  }

  @Test func silenceForABudgetIsALossNotBefore() {
    var monitor = monitor()
    #expect(monitor.tick(now: instant(999)) == .ping(sequence: 1))
    #expect(monitor.nextTick == instant(1000))
    #expect(monitor.tick(now: instant(1000)) == .lost)
  }

  @Test func theFirstWordMayTakeLongerThanABudgetAndNoOtherWord() {
    var silent = LinkMonitor(
      budgetNanoseconds: Self.budget, now: Self.start, firstWordNanoseconds: 5 * Self.budget)
    var monitor = silent
    #expect(silent.tick(now: instant(4999)) == .ping(sequence: 1))
    #expect(silent.tick(now: instant(5000)) == .lost)
    monitor.heard(at: instant(100))
    #expect(monitor.tick(now: instant(1099)) != .lost)
    #expect(monitor.tick(now: instant(1100)) == .lost)
  }

  @Test func noTimeForAFirstWordIsShorterThanTheBudget() {
    var monitor = LinkMonitor(
      budgetNanoseconds: Self.budget, now: Self.start, firstWordNanoseconds: Self.budget / 2)
    #expect(monitor.tick(now: instant(999)) != .lost)
    #expect(monitor.tick(now: instant(1000)) == .lost)
  }

  @Test func whateverIsHeardKeepsTheLink() {
    var monitor = monitor()
    monitor.heard(at: instant(900))
    #expect(monitor.tick(now: instant(1000)) != .lost)
    #expect(monitor.tick(now: instant(1899)) != .lost)
    #expect(monitor.tick(now: instant(1900)) == .lost)
  }

  @Test func anOlderNoteOfHearingChangesNothing() {
    var monitor = monitor()
    monitor.heard(at: instant(900))
    monitor.heard(at: instant(100))
    #expect(monitor.deadline == instant(1900))
  }

  @Test func theShortestRoundTripCountsAndStraysDoNot() {
    var monitor = monitor()
    _ = monitor.tick(now: instant(100))
    monitor.pong(7, now: instant(101))
    #expect(monitor.shortestRoundTripNanoseconds == nil)
    monitor.pong(1, now: instant(103))
    monitor.pong(1, now: instant(101))
    #expect(monitor.shortestRoundTripNanoseconds == 3_000_000)
    _ = monitor.tick(now: instant(350))
    monitor.pong(2, now: instant(351))
    #expect(monitor.shortestRoundTripNanoseconds == 1_000_000)
  }

  @Test func aPauseOfOurOwnIsTheLastWordOnlyIfNothingWasHeard() {
    // A process that was stopped for long first takes what has come meanwhile, then looks.
    var monitor = monitor()
    monitor.heard(at: instant(30_000))
    #expect(monitor.tick(now: instant(30_000)) == .ping(sequence: 1))
  }
}
