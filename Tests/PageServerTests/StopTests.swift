import Migration
import Session
import System
import Testing
import Wire

@testable import PageServer

@Suite(.serialized, .timeLimit(.minutes(5))) struct StopTests {
  @Test func theSessionThatIsAskedEndsAndNoOther() throws {
    let place = try SessionPlace()
    let asked = try RunningSession(try place.configuration("asked"))
    let other = try RunningSession(try place.configuration("other"))
    let stops = try (asked.stopAddress(), other.stopAddress())
    let isTaken = stops.0(StopRequest(.park) { Issue.record("refused: \($0)") })
    #expect(isTaken)
    let parked = try asked.end()
    // Nobody had come: there was nothing to keep, and that is what is told.
    #expect(parked.outcome.ending == .aborted)
    #expect(parked.outcome.reason?.reason == "parked by the operator")
    #expect(other.result.withLock { $0 == nil })
    _ = stops.1(StopRequest(.abort) { Issue.record("refused: \($0)") })
    #expect(try other.end().outcome.reason?.reason == "stopped by the operator")
  }
}
