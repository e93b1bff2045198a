import Migration
import Session
import System
import Testing
import VMM
import Wire

@testable import FaultHandler

private typealias Saved = SavedSessionFixture

/// Stops over the control socket reach the session that they are meant for.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct StopTests {
  private let records = [Saved.opened, Saved.prepared, Saved.goAccepted, Saved.ran]

  /// Hands the session what other threads have told it.
  private func deliver(_ session: DestinationSession) {
    while session.outcome == nil, let input = session.inputs.take() { session.handle(input) }
  }

  @Test func theOneThatIsAskedParksAndNoOther() throws {
    let fixtures = [try Saved(records), try Saved(records)]
    let sessions = try fixtures.map { try $0.recover(ScriptedFrontEnd(.running)) }
    for session in sessions { session.startRecovered() }
    let isTaken = sessions[0].orderAddress(
      OrderRequest(.park) { Issue.record("answered: \($0)") })
    #expect(isTaken)
    for session in sessions { deliver(session) }
    #expect(sessions[0].outcome?.ending == .parked)
    #expect(sessions[1].outcome == nil)
    #expect(sessions[0].close().outcome.reason?.reason == "parked by the operator")
    _ = try sessions[1].parkNow()
  }

  @Test func anAbortBehindTheHandOverIsRefusedOnceAndSaidTo() throws {
    let fixture = try Saved(records)
    let session = try fixture.recover(ScriptedFrontEnd(.running))
    session.startRecovered()
    let reasons = Lock<[String]>([])
    let abort = OrderRequest(.abort) { answer in
      reasons.withLock { $0.append(answer.error ?? "") }
    }
    _ = session.orderAddress(abort)
    deliver(session)
    #expect(session.outcome == nil)
    #expect(reasons.withLock { $0.count } == 1)
    #expect(reasons.withLock { $0.first }?.contains("the VM runs here") == true)
    _ = session.orderAddress(abort)
    deliver(session)
    #expect(session.outcome?.ending == .parked)
    // The end of the session is the answer.
    #expect(reasons.withLock { $0.count } == 1)
    _ = session.close()
  }

  @Test func theSwitchIsTheSources() throws {
    let fixture = try Saved(records)
    let session = try fixture.recover(ScriptedFrontEnd(.running))
    session.startRecovered()
    let answers = Lock<[SessionAnswer]>([])
    _ = session.orderAddress(
      OrderRequest(.switchOver) { answer in answers.withLock { $0.append(answer) } })
    deliver(session)
    let answer = try #require(answers.withLock { $0.first })
    #expect(!answer.ok && answer.error?.contains("the rounds are the source's") == true)
    #expect(session.outcome == nil)
    _ = try session.parkNow()
  }

  @Test func beforeAVMMHasAttachedNothingWasBegun() throws {
    let fixture = try Saved([])
    let session = try DestinationSession(fixture.configuration(ScriptedFrontEnd(nil))) { _ in }
    session.attach()
    _ = session.orderAddress(OrderRequest(.park) { Issue.record("answered: \($0)") })
    deliver(session)
    #expect(session.outcome?.ending == .refused)
    #expect(session.close().outcome.destination == .untouched)
  }
}
