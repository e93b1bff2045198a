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
}
