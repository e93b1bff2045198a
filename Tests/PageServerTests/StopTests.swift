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
    let orders = try (asked.orderAddress(), other.orderAddress())
    let isTaken = orders.0(OrderRequest(.park) { Issue.record("answered: \($0)") })
    #expect(isTaken)
    let parked = try asked.end()
    // Nobody had come: there was nothing to keep, and that is what is told.
    #expect(parked.outcome.ending == .aborted)
    #expect(parked.outcome.reason?.reason == "parked by the operator")
    #expect(other.result.withLock { $0 == nil })
    _ = orders.1(OrderRequest(.abort) { Issue.record("answered: \($0)") })
    #expect(try other.end().outcome.reason?.reason == "stopped by the operator")
  }

  @Test func aModeWithoutRoundsHasNoneToEnd() throws {
    let place = try SessionPlace()
    let session = try RunningSession(try place.configuration("asked"))
    let order = try session.orderAddress()
    let answers = try Mailbox<SessionAnswer>(capacity: 1)
    _ = order(OrderRequest(.switchOver) { _ = answers.post($0) })
    let answer = try #require(answers.receive(until: soon()))
    #expect(!answer.ok && answer.error?.contains("mode post-copy has no rounds") == true)
    _ = order(OrderRequest(.abort) { Issue.record("answered: \($0)") })
    _ = try session.end()
  }

  @Test func aLimitCanBeSetBeforeAnybodyHasCome() throws {
    let place = try SessionPlace()
    let session = try RunningSession(try place.configuration("asked"))
    let order = try session.orderAddress()
    let answers = try Mailbox<SessionAnswer>(capacity: 1)
    _ = order(OrderRequest(.limitBandwidth(bytesPerSecond: 1 << 20)) { _ = answers.post($0) })
    #expect(try #require(answers.receive(until: soon())).ok)
    _ = order(OrderRequest(.abort) { Issue.record("answered: \($0)") })
    _ = try session.end()
  }
}
