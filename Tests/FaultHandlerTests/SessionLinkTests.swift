import Migration
import Pages
import Session
import System
import Testing
import Uring
import VMM
import Wire

@testable import FaultHandler

private typealias Saved = SavedSessionFixture

/// What a session makes of the news of its dialler.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Machine.hasUserfault, "needs userfaultfd for kernel-mode faults"))
struct SessionLinkTests {
  private let records = [Saved.opened, Saved.prepared, Saved.goAccepted, Saved.ran]
  private let broken = Refusal(.timeout, "the handshake broke")

  private func relink(
    _ session: DestinationSession, of fixture: Saved, dial: UInt32
  ) throws -> Connection {
    let (here, there) = try ScriptedSource.pair(.urgent)
    let regions = try #require(session.vm).layout.regions
    let welcome = Welcome(
      session: Saved.id, epoch: Saved.base, mode: .postCopy, bulkConnectionCount: 1,
      isHandedOff: true, regions: regions)
    session.handle(
      DestinationSession.DialNews.relinked(here, welcome, fixture.source), dial: dial)
    return there
  }

  @Test func aLinkWithoutItsBulkConnectionsIsLostAndMadeAnew() throws {
    let fixture = try Saved(records)
    let session = try fixture.recover(ScriptedFrontEnd(.running))
    session.startRecovered()
    let dial = session.dialNumber
    let there = try relink(session, of: fixture, dial: dial)
    #expect(session.isLinkUp)
    session.handle(
      DestinationSession.DialResult.bulkLost(fixture.source, broken), dial: dial)
    #expect(!session.isLinkUp && session.dialNumber == dial + 1)
    #expect(
      fixture.notes.all.contains { note in
        if case .lost(let reason) = note { reason == broken } else { false }
      })
    // Its connection is closed: what had been said on it is there, and then its end.
    let limit = MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
    #expect(throws: ConnectionError.self) {
      while true {
        var byte = try TransferBuffer(byteCount: 1)
        var room = byte.mutableBytes(0..<1)
        try there.receiveAll(into: &room, until: limit)
      }
    }
    // The next link is not held against its forerunner, nor the other way round.
    let second = try relink(session, of: fixture, dial: dial + 1)
    session.handle(
      DestinationSession.DialResult.bulkLost(fixture.source, broken), dial: dial)
    #expect(session.isLinkUp && session.dialNumber == dial + 1)
    _ = try session.parkNow()
    second.shutdown()
  }

  @Test func aSourceWhoseProcessorsCanDoMoreIsRefused() throws {
    let fixture = try Saved(records)
    let session = try fixture.recover(ScriptedFrontEnd(.running))
    session.startRecovered()
    func refusal(_ features: String) -> Refusal? {
      let welcome = Welcome(
        session: Saved.id, epoch: Saved.base, mode: .postCopy, bulkConnectionCount: 1,
        isHandedOff: false, regions: [], processorFeatures: features)
      do throws(Refusal) {
        try session.requireProcessor(of: welcome)
        return nil
      } catch { return error }
    }
    let here = ProcessorFeatures.ofThisHost().text
    #expect(refusal(here) == nil)
    #expect(refusal("") == nil)
    let refused = refusal(here + " avx4096")
    #expect(refused?.code == .unfit && refused?.reason.contains("avx4096") == true)
    _ = try session.parkNow()
  }

  @Test func bulkConnectionsOfALinkThatWasLostMeanwhileAreClosed() throws {
    let fixture = try Saved(records)
    let session = try fixture.recover(ScriptedFrontEnd(.running))
    session.startRecovered()
    let dial = session.dialNumber
    _ = try relink(session, of: fixture, dial: dial)
    session.loseLink(broken)
    let (here, there) = try ScriptedSource.pair(.bulk)
    session.handle(DestinationSession.DialResult.bulkLinked([here]), dial: dial)
    let limit = MonotonicClock.now().advanced(byNanoseconds: 60_000_000_000)
    #expect(throws: ConnectionError.self) {
      var byte = try TransferBuffer(byteCount: 1)
      var room = byte.mutableBytes(0..<1)
      try there.receiveAll(into: &room, until: limit)
    }
    #expect(!session.isLinkUp && session.dialNumber == dial + 1)
    _ = try session.parkNow()
  }
}
