import Migration
import Pages
import Testing

@Suite struct GuestPauseTests {
  private static let second: UInt64 = 1_000_000_000

  private func instant(_ milliseconds: UInt64) -> Instant {
    Instant(nanoseconds: 1_000_000_000_000 + milliseconds * 1_000_000)
  }

  private func lost(at milliseconds: UInt64) -> GuestPause.Standing {
    .dependent(lostAt: instant(milliseconds))
  }

  private let up = GuestPause.Standing.dependent(lostAt: nil)

  /// One whose guest stands still since 5 s, for a loss at 3 s.
  private func paused(isComplete: Bool = true) -> GuestPause {
    var pause = GuestPause(afterNanoseconds: 2 * Self.second)
    #expect(pause.step(lost(at: 3000), now: instant(5000)) == .pause)
    pause.answered(.paused(isComplete: isComplete), now: instant(5000))
    return pause
  }

  @Test func pausesWhenTheLossIsOldEnoughAndNotBefore() {
    var pause = GuestPause(afterNanoseconds: 2 * Self.second)
    #expect(pause.nextStep(up) == nil)
    #expect(pause.step(up, now: instant(0)) == nil)
    #expect(pause.nextStep(lost(at: 100)) == instant(2100))
    #expect(pause.step(lost(at: 100), now: instant(2099)) == nil)
    #expect(pause.step(lost(at: 100), now: instant(2100)) == .pause)
    // Asked once, however long the answer takes.
    #expect(pause.step(lost(at: 100), now: instant(9000)) == nil)
    #expect(pause.nextStep(lost(at: 100)) == nil)
    pause.answered(.paused(isComplete: true), now: instant(9000))
    #expect(pause.step(lost(at: 100), now: instant(99_000)) == nil)
    #expect(pause.state == .paused(isComplete: true) && pause.pauseCount == 1)
  }

  @Test func aShortLossPausesNothing() {
    var pause = GuestPause(afterNanoseconds: 2 * Self.second)
    #expect(pause.step(lost(at: 100), now: instant(2000)) == nil)
    #expect(pause.step(up, now: instant(2050)) == nil)
    // The next one is counted from its own beginning.
    #expect(pause.step(lost(at: 2060), now: instant(4059)) == nil)
    #expect(pause.step(lost(at: 2060), now: instant(4060)) == .pause)
  }

  @Test func neverPausesUnlessTold() {
    var pause = GuestPause(afterNanoseconds: nil)
    #expect(pause.nextStep(lost(at: 0)) == nil)
    #expect(pause.step(lost(at: 0), now: instant(1_000_000_000)) == nil)
  }

  @Test(arguments: [DestinationState.dialing, .opening, .ready, .loading, .prepared, .acceptingGo])
  func pausesNoGuestThatWasNotLetRun(state: DestinationState) {
    var pause = GuestPause(afterNanoseconds: 0)
    let standing = state.guestStanding(lostAt: instant(0))
    #expect(standing == .other)
    #expect(pause.step(standing, now: instant(60_000)) == nil)
  }

  /// P1: nothing lets a guest run but what the core has let run before.
  @Test func resumesInNoStateButThoseBehindGo() {
    let behindGo: Set<DestinationState> = [.running, .completing, .acknowledging]
    for state in DestinationState.allCases {
      var pause = paused()
      let order = pause.step(state.guestStanding(lostAt: nil), now: instant(6000))
      #expect((order != nil) == behindGo.contains(state), "\(state)")
    }
  }

  @Test func resumesWithTheLink() {
    var pause = paused()
    #expect(pause.step(up, now: instant(8000)) == .resume(.linkRestored))
    #expect(pause.step(up, now: instant(8001)) == nil)
    #expect(pause.owesResume)
    pause.answered(.resumed, now: instant(8002))
    #expect(!pause.owesResume && pause.pausedNanoseconds == 3_002_000_000)
    #expect(pause.step(up, now: instant(8003)) == nil)
    // The next loss is another one.
    #expect(pause.step(lost(at: 9000), now: instant(11_000)) == .pause)
  }

  @Test func resumesAGuestThatIsWhole() {
    var pause = paused(isComplete: false)
    let standing = DestinationState.acknowledging.guestStanding(lostAt: instant(3000))
    #expect(pause.step(standing, now: instant(6000)) == .resume(.complete))
  }

  @Test func theAnswerToThePauseIsAwaitedBeforeItIsUndone() {
    var pause = GuestPause(afterNanoseconds: 0)
    #expect(pause.step(lost(at: 0), now: instant(0)) == .pause)
    #expect(pause.step(up, now: instant(10)) == nil)
    pause.answered(.paused(isComplete: false), now: instant(4000))
    #expect(pause.step(up, now: instant(4000)) == .resume(.linkRestored))
  }

  @Test func aRefusedPauseIsOverForThisLoss() {
    var pause = GuestPause(afterNanoseconds: 0)
    #expect(pause.step(lost(at: 0), now: instant(0)) == .pause)
    pause.answered(.notPaused, now: instant(1))
    #expect(!pause.owesResume && pause.pauseCount == 0)
    #expect(pause.nextStep(lost(at: 0)) == nil)
    #expect(pause.step(lost(at: 0), now: instant(50_000)) == nil)
    #expect(pause.step(up, now: instant(50_001)) == nil)
    #expect(pause.step(lost(at: 60_000), now: instant(60_000)) == .pause)
  }

  /// A VMM that did not answer may stop its guest at any later time.
  @Test func anUnansweredPauseIsUndoneAllTheSame() {
    var pause = GuestPause(afterNanoseconds: 0)
    #expect(pause.step(lost(at: 0), now: instant(0)) == .pause)
    pause.answered(.unclear, now: instant(4000))
    #expect(pause.owesResume && pause.pauseCount == 0)
    #expect(pause.step(up, now: instant(5000)) == .resume(.linkRestored))
  }

  @Test func aResumeThatFailsIsTriedAgainASecondLater() {
    var pause = paused()
    #expect(pause.step(up, now: instant(8000)) == .resume(.linkRestored))
    pause.answered(.notResumed, now: instant(8500))
    #expect(pause.nextStep(up) == instant(9500))
    #expect(pause.step(up, now: instant(9499)) == nil)
    #expect(pause.step(up, now: instant(9500)) == .resume(.linkRestored))
    pause.answered(.notResumed, now: instant(9600))
    // Lost again meanwhile: it stays paused, and nothing is due.
    #expect(pause.nextStep(lost(at: 9700)) == nil)
    #expect(pause.step(lost(at: 9700), now: instant(99_000)) == nil)
    #expect(pause.step(up, now: instant(99_001)) == .resume(.linkRestored))
    pause.answered(.resumed, now: instant(99_002))
    #expect(!pause.owesResume)
  }

  @Test func onlyAnAcknowledgedPauseThatNobodyWantedUndoneIsCertain() {
    #expect(!GuestPause(afterNanoseconds: 0).isCertain)
    #expect(!GuestPause(afterNanoseconds: nil, wasPaused: true).isCertain)
    var unclear = GuestPause(afterNanoseconds: 0)
    #expect(unclear.step(lost(at: 0), now: instant(0)) == .pause)
    #expect(!unclear.isCertain)
    unclear.answered(.unclear, now: instant(4000))
    #expect(unclear.owesResume && !unclear.isCertain)
    #expect(paused(isComplete: false).isCertain, "a vCPU that waits for a page does not run")
    var pause = paused()
    #expect(pause.isCertain)
    #expect(pause.step(up, now: instant(8000)) == .resume(.linkRestored))
    #expect(!pause.isCertain)
    pause.answered(.notResumed, now: instant(8500))
    #expect(pause.owesResume && !pause.isCertain)
  }

  @Test func whatAnEarlierProcessPausedIsResumedWithTheLink() {
    var pause = GuestPause(afterNanoseconds: nil, wasPaused: true)
    #expect(pause.owesResume)
    #expect(pause.step(lost(at: 0), now: instant(60_000)) == nil)
    #expect(pause.step(up, now: instant(60_001)) == .resume(.linkRestored))
    pause.answered(.resumed, now: instant(60_002))
    #expect(!pause.owesResume && pause.pausedNanoseconds == 0)
  }

  /// Links that come and go, VMMs that answer late or not, processes that die: a guest that runs
  /// unpaused by us is never resumed, and once the link stays it runs.
  @Test func runsInTheEndWhateverHappens() {
    var pauseCount = 0
    for seed in UInt64(1)...150 {
      var world = PauseWorld(seed: seed)
      for _ in 0..<300 { world.trouble() }
      for _ in 0..<20 { world.calm() }
      let isOver = !world.isPausedByUs && !world.hasMark && !world.pause.owesResume
      #expect(isOver && world.wrongs == [], "seed \(seed)")
      pauseCount += world.pauseCount
    }
    // It was about something.
    #expect(pauseCount > 1500)
  }
}

/// A guest, its VMM, its link and a process that may die; from a seed.
private struct PauseWorld {
  var pause = GuestPause(afterNanoseconds: 1_500_000_000)
  var hasMark = false
  var isPausedByUs = false
  var isPausedByOperator = false
  var wrongs: [String] = []
  /// How often the VMM was asked to pause.
  var pauseCount = 0
  private var now: UInt64 = 1_000_000_000
  private var lostAt: UInt64?
  private var order: GuestPause.Order?
  private var random: UInt64

  init(seed: UInt64) { random = seed &* 0x9E37_79B9_7F4A_7C15 }

  private mutating func draw(_ count: UInt64) -> UInt64 {
    random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return (random >> 33) % count
  }

  private var standing: GuestPause.Standing {
    .dependent(lostAt: lostAt.map { Instant(nanoseconds: $0) })
  }

  mutating func trouble() {
    now += draw(1_000_000_000)
    switch draw(12) {
    case 0...1: lostAt = lostAt ?? now
    case 2...3: lostAt = nil
    case 4 where !isPausedByUs: isPausedByOperator.toggle()
    case 5: die()
    case 6...9: answer(isWell: draw(3) > 0)
    default: break
    }
    step()
  }

  /// The link is up, the VMM answers.
  mutating func calm() {
    lostAt = nil
    now += 1_000_000_000
    answer(isWell: true)
    step()
  }

  private mutating func step() {
    guard let next = pause.step(standing, now: Instant(nanoseconds: now)) else { return }
    if order != nil { wrongs.append("asked for two things at once") }
    order = next
    switch next {
    case .pause:
      hasMark = true
      pauseCount += 1
      if lostAt == nil { wrongs.append("paused with a link") }
    case .resume: if lostAt != nil { wrongs.append("resumed without a link") }
    }
  }

  /// What was under way may have been carried out.
  private mutating func die() {
    if let order, draw(2) == 0 { carryOut(order) }
    order = nil
    pause = GuestPause(afterNanoseconds: 1_500_000_000, wasPaused: hasMark)
  }

  private mutating func carryOut(_ order: GuestPause.Order) {
    switch order {
    case .pause: if !isPausedByOperator { isPausedByUs = true }
    case .resume:
      // A stop that the operator added to ours cannot be told from it.
      isPausedByUs = false
      if !hasMark { wrongs.append("resumed what it had not paused") }
    }
  }

  private mutating func answer(isWell: Bool) {
    guard let order else { return }
    self.order = nil
    let answer: GuestPause.Answer
    switch order {
    case .pause where isPausedByOperator: answer = .notPaused
    case .pause where isWell: answer = .paused(isComplete: draw(2) == 0)
    case .pause: answer = draw(2) == 0 ? .unclear : .notPaused
    case .resume: answer = isWell ? .resumed : .notResumed
    }
    // One that was not answered may have been heard all the same.
    if isWell || answer == .unclear && draw(2) == 0 { carryOut(order) }
    if answer == .notPaused || answer == .resumed { hasMark = false }
    pause.answered(answer, now: Instant(nanoseconds: now))
  }
}
