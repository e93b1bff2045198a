import Migration
import Pages
import System
import Testing
import VMM

@testable import PageServer

@Suite struct GuestThrottleTests {
  private final class Asked: ProcessorThrottle {
    let percents = Lock<[Int]>([])
    let fails: Bool
    let slowsVMM: Bool
    init(fails: Bool = false, slowsVMM: Bool = false) {
      self.fails = fails
      self.slowsVMM = slowsVMM
    }
    func throttle(percent: Int, forMilliseconds: UInt64) throws(VMMError) {
      percents.withLock { $0.append(percent) }
      guard fails else { return }
      throw VMMError(vmName: "test", verb: .throttle, address: "test", problem: .silent("no"))
    }
  }

  private let slow = SeedRoundResult(sentByteCount: 1, nanoseconds: 1, dirtiedByteCount: 1)

  @Test(arguments: [true, false])
  func whatIsTakenIsAskedForAgainAndGivenBack(fails: Bool) {
    let asked = Asked(fails: fails)
    let told = Lock<[String]>([])
    let throttle = GuestThrottle(
      ChosenThrottle(throttle: asked, means: .vmm), maximumPercent: 99,
      told: { problem in told.withLock { $0.append(problem) } })
    throttle.renew(MonotonicClock.now())
    throttle.release()
    #expect(asked.percents.withLock { $0 } == [], "nothing was taken")
    for _ in 0..<4 { throttle.roundEnded(slow) }
    #expect(asked.percents.withLock { $0 } == [20, 30])
    // What was not done is not told to be.
    #expect(throttle.percent == (fails ? 0 : 30))
    #expect(told.withLock { $0.count } == (fails ? 1 : 0), "once")
    let now = MonotonicClock.now()
    throttle.renew(now)
    #expect(asked.percents.withLock { $0.count } == 2, "not yet")
    throttle.renew(now.advanced(byNanoseconds: GuestThrottle.leaseMilliseconds * 500_000))
    throttle.release()
    #expect(asked.percents.withLock { $0 } == [20, 30, 30, 0])
    #expect(told.withLock { $0.count } == (fails ? 2 : 0), "that it is not let go is told as well")
  }

  @Test(arguments: [true, false])
  func aVMMThatIsSlowItselfIsLetGoBeforeItIsPaused(slowsVMM: Bool) {
    let asked = Asked(slowsVMM: slowsVMM)
    let throttle = GuestThrottle(
      ChosenThrottle(throttle: asked, means: .cgroup), maximumPercent: 99)
    for _ in 0..<2 { throttle.roundEnded(slow) }
    throttle.pauseComes()
    #expect(asked.percents.withLock { $0 } == (slowsVMM ? [20, 0] : [20]))
    #expect(throttle.percent == (slowsVMM ? 0 : 20))
    // It goes on over a new link.
    throttle.renew(MonotonicClock.now().advanced(byNanoseconds: 2_000_000_000))
    #expect(throttle.percent == 20)
  }
}
