import Migration
import Testing
import Wire

/// The operator's oath that the destination is dead, as the source's core finds it in the journal.
@Suite("The fence")
struct FenceTests {
  static let handedOff: [SourceRecord] = [
    .opened(session: testSession, epoch: base, mode: .postCopy), .handedOff(epoch: handed),
  ]
  static let fenced = handedOff + [.fenced(epoch: again)]

  @Test("with FENCED on the disk the VM runs again, and the outcome says so")
  func fencedSourceResumes() throws {
    var rig = try #require(SourceRig(recovering: Self.fenced, vm: .stopped))
    #expect(!rig.core.isHandedOff)
    #expect(rig.start().deeds == [.listen, .resumeVM])
    let effects = rig.feed(.vmm(.resumed))
    #expect(effects.contains(.journalLazily(.aborted(epoch: base))))
    let outcome = try #require(effects.outcome)
    #expect(outcome.ending == .aborted)
    #expect(outcome.source == .runs && outcome.destination == .killed)
  }

  @Test(
    "without FENCED it does not, however often it is restarted",
    arguments: [
      ObservedVM.stopped, .running, .gone,
    ])
  func unfencedSourceStays(vm: ObservedVM) throws {
    var rig = try #require(SourceRig(recovering: Self.handedOff, vm: vm))
    let effects = rig.start()
    #expect(!effects.contains(.resumeVM))
    #expect(!effects.contains { if case .journal(.resumed) = $0 { true } else { false } })
  }

  @Test(
    "a destination that comes back behind the fence gets no GO and no page",
    arguments: DestinationProgress.allCases)
  func lateDestination(progress: DestinationProgress) throws {
    var rig = try #require(SourceRig(recovering: Self.fenced, vm: .stopped))
    _ = rig.start()
    let effects = rig.feed(.linkUp(progress))
    #expect(!effects.sent.contains(.go(epoch: handed)))
    #expect(!effects.contains(.beginServing) && !effects.contains(.beginPush))
    switch progress {
    // It has given up, or can still be told to.
    case .preparing, .prepared, .aborted: #expect(!effects.disconnects)
    case .unknown, .goAccepted, .ran, .complete: #expect(effects.disconnects)
    }
    #expect(rig.feed(.vmm(.resumed)).outcome?.source == .runs)
  }

  @Test("a VM that cannot be let run is kept, and can be tried again")
  func resumeFails() throws {
    var rig = try #require(SourceRig(recovering: Self.fenced, vm: .stopped))
    _ = rig.start()
    let effects = rig.feed(.vmm(.resumeFailed(trouble)))
    #expect(effects.outcome?.ending == .parked)
    #expect(!effects.contains(.releaseMemory))
    var later = try #require(SourceRig(recovering: Self.fenced, vm: .stopped))
    #expect(later.start().contains(.resumeVM))
  }

  @Test("a fence that was used is over: a later life tells the outcome and touches nothing")
  func usedFence() throws {
    var rig = try #require(
      SourceRig(recovering: Self.fenced + [.aborted(epoch: base)], vm: .running))
    let effects = rig.start()
    #expect(effects.count == 1)
    #expect(effects.outcome?.ending == .aborted)
  }
}
