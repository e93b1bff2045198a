import Migration
import System
import Testing
import VMM
import Wire

@testable import FaultHandler

private typealias Saved = SavedSessionFixture

/// A VMM whose vCPUs wait for pages may answer nothing until they come.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct SilentVMMTests {
  @Test func aVMThatRanIsTakenUpThoughItsVMMDoesNotAnswer() throws {
    let fixture = try Saved([Saved.opened, Saved.prepared, Saved.goAccepted, Saved.ran])
    let session = try fixture.recover(ScriptedFrontEnd(nil))
    session.startRecovered()
    #expect(session.core.state == .running)
    #expect(fixture.notes.warnings.contains { $0.contains("does not answer") })
    let result = try session.parkNow()
    #expect(result.outcome.ending == .parked)
    #expect(result.outcome.destination == .runs)
  }

  @Test func whatWasAllowedToRunIsToldSoAgain() throws {
    let fixture = try Saved([Saved.opened, Saved.prepared, Saved.goAccepted])
    let session = try fixture.recover(ScriptedFrontEnd(nil))
    session.startRecovered()
    #expect(session.core.state == .starting)
    _ = try session.parkNow()
  }

  @Test func aPreparedVMMThatDoesNotAnswerIsLeftAlone() throws {
    let fixture = try Saved([Saved.opened, Saved.prepared])
    let refusal = #expect(throws: Refusal.self) { try fixture.recover(ScriptedFrontEnd(nil)) }
    #expect(refusal?.code == .vmm)
    for words in ["never told to run", "nothing was changed", "recover --vm web"] {
      #expect(refusal?.reason.contains(words) == true, "\(String(describing: refusal))")
    }
    // Nothing was changed: once it answers, the session goes on.
    let session = try fixture.recover(ScriptedFrontEnd(.paused))
    session.startRecovered()
    #expect(session.core.state == .prepared)
    _ = try session.parkNow()
  }
}
