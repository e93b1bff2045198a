import Testing

@testable import Pages

@Suite("A window of busy polling")
struct BusyPollWindowTests {
  @Test("opens step by step while waits are short, up to its bound")
  func opens() {
    var window = BusyPollWindow(maximumNanoseconds: 100_000)
    #expect(window.nanoseconds == 0)
    var lengths: [UInt64] = []
    for _ in 0..<6 {
      window.note(waitedNanoseconds: 95_000)
      lengths.append(window.nanoseconds)
    }
    #expect(lengths == [10_000, 20_000, 40_000, 80_000, 100_000, 100_000])
  }

  @Test("stays as it is after a wait that it has caught")
  func stays() {
    var window = BusyPollWindow(maximumNanoseconds: 100_000)
    window.note(waitedNanoseconds: 5000)
    window.note(waitedNanoseconds: 5000)
    #expect(window.nanoseconds == 10_000)
    window.note(waitedNanoseconds: 10_000)
    #expect(window.nanoseconds == 10_000)
  }

  @Test("closes after a wait that none could catch")
  func closes() {
    var window = BusyPollWindow(maximumNanoseconds: 100_000)
    window.note(waitedNanoseconds: 50_000)
    window.note(waitedNanoseconds: 100_001)
    #expect(window.nanoseconds == 0)
    window.note(waitedNanoseconds: 100_000)
    #expect(window.nanoseconds == 10_000)
  }

  @Test("never opens when it may not", arguments: [0, 3000] as [UInt64])
  func bound(_ maximum: UInt64) {
    var window = BusyPollWindow(maximumNanoseconds: maximum)
    for _ in 0..<4 { window.note(waitedNanoseconds: 1) }
    #expect(window.nanoseconds == maximum)
    for _ in 0..<4 { window.note(waitedNanoseconds: 250_000_000) }
    #expect(window.nanoseconds == 0)
  }

  private func instant(_ milliseconds: UInt64) -> Instant {
    Instant(nanoseconds: 5_000_000_000_000 + milliseconds * 1_000_000)
  }

  private func openWindow() -> BusyPollWindow {
    var window = BusyPollWindow(maximumNanoseconds: 200_000)
    for _ in 0..<6 { window.note(waitedNanoseconds: 190_000) }
    return window
  }

  @Test("looks only where there is room for it")
  func room() {
    var window = BusyPollWindow(maximumNanoseconds: 200_000)
    #expect(!window.needsPeriod(at: instant(0)), "nobody has to look while it is closed")
    window = openWindow()
    #expect(window.lookNanoseconds(at: instant(0)) == 0)
    #expect(window.needsPeriod(at: instant(0)))
    window.beginPeriod(at: instant(0), hasRoom: false)
    #expect(window.lookNanoseconds(at: instant(1)) == 0)
    #expect(!window.needsPeriod(at: instant(99)))
    #expect(window.needsPeriod(at: instant(100)))
    window.beginPeriod(at: instant(100), hasRoom: true)
    #expect(window.lookNanoseconds(at: instant(101)) == 200_000)
  }

  @Test("leaves a fifth of the time to others")
  func share() {
    var window = openWindow()
    window.beginPeriod(at: instant(0), hasRoom: true)
    #expect(window.lookNanoseconds(at: instant(79)) == 200_000)
    #expect(window.lookNanoseconds(at: instant(80)) == 0)
    window.note(sleptNanoseconds: 10_000_000)
    #expect(window.lookNanoseconds(at: instant(89)) == 200_000)
    window.note(sleptNanoseconds: 50_000)
    #expect(window.lookNanoseconds(at: instant(90)) == 50_000, "the rest of it")
    window.note(sleptNanoseconds: 9_950_000)
    #expect(window.lookNanoseconds(at: instant(99)) == 200_000)
    window.beginPeriod(at: instant(100), hasRoom: true)
    #expect(window.lookNanoseconds(at: instant(180)) == 0, "a new period has its own sleep")
  }
}
