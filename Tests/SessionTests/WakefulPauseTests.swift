import Pages
import System
import Testing

@testable import Session

struct WakefulPauseTests {
  static var mayKeepAwake: Bool { (try? AwakeProcessors()) != nil }
  private static let start = Instant(nanoseconds: 1_000_000_000)

  @Test(.enabled(if: mayKeepAwake, "needs the right to write /dev/cpu_dma_latency"))
  func processorsAreAwakeWhileTheGuestStandsStill() {
    var pause = WakefulPause()
    pause.note(isPaused: false, now: Self.start)
    var isAwake = pause.isAwake
    #expect(!isAwake)
    pause.note(isPaused: true, now: Self.start)
    isAwake = pause.isAwake
    #expect(isAwake)
    pause.note(isPaused: true, now: Self.start.advanced(byNanoseconds: 900_000_000))
    isAwake = pause.isAwake
    #expect(isAwake)
    pause.note(isPaused: false, now: Self.start.advanced(byNanoseconds: 900_000_001))
    isAwake = pause.isAwake
    #expect(!isAwake)
  }

  @Test(.enabled(if: mayKeepAwake, "needs the right to write /dev/cpu_dma_latency"))
  func aPauseThatLastsKeepsNothingAwake() {
    var pause = WakefulPause()
    pause.note(isPaused: true, now: Self.start)
    pause.note(isPaused: true, now: Self.start.advanced(byNanoseconds: 1_000_000_001))
    var isAwake = pause.isAwake
    #expect(!isAwake)
    // Nor does what follows of it.
    pause.note(isPaused: true, now: Self.start.advanced(byNanoseconds: 1_000_000_002))
    isAwake = pause.isAwake
    #expect(!isAwake)
  }
}
