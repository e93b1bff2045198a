import Codec
import Glibc
import Migration
import Pages
import System
import Testing
import UFFD
import Uring
import VMM
import Wire

@testable import PageServer

/// Who tells what a VM writes.
@Suite(.timeLimit(.minutes(5))) struct WriteTrackingTests {
  private func pages(_ bits: [UInt8], _ count: Int) -> [Int] {
    (0..<count).filter { bits[$0 >> 3] & 1 << UInt8($0 & 7) != 0 }
  }

  // MARK: Comparison

  @Test func whatIsNotAsItWasSentIsWritten() throws {
    let memory = try TestMemory(pageCount: 40)
    try memory.fill(0..<30)
    let backing = try memory.open()
    let digests = SentDigests()
    let log = try ContentLog(vmName: "test", backing, backing.naturalLayout, digests)
    #expect(!digests.isWanted)
    try log.startDirtyLog()
    #expect(digests.isWanted)
    // Nothing was sent yet.
    #expect(pages(try log.fetchDirtyLog(), 40) == Array(0..<40))
    var hasher = PageHasher()
    for page in 0..<38 {
      let contents = page < 30 ? TestMemory.content(page) : [UInt8](repeating: 0, count: 4096)
      digests.sent(page, hasher.digest(of: contents.rawBytes), round: 1)
    }
    #expect(pages(try log.fetchDirtyLog(), 40) == [38, 39])
    try memory.write(TestMemory.content(7), page: 35)
    try memory.write([UInt8](repeating: 0, count: 4096), page: 3)
    var changed = TestMemory.content(20)
    changed[4000] ^= 1
    try memory.write(changed, page: 20)
    #expect(pages(try log.fetchDirtyLog(), 40) == [3, 20, 35, 38, 39])
    // And it is told until it is sent.
    #expect(pages(try log.fetchDirtyLog(), 40) == [3, 20, 35, 38, 39])
    try memory.write(TestMemory.content(20), page: 20)
    #expect(pages(try log.fetchDirtyLog(), 40) == [3, 35, 38, 39])
    try log.stopDirtyLog()
    #expect(!digests.isWanted)
  }

  /// A thread of the lost link notes what nobody has got, behind the end of that link.
  @Test func whatIsNotedOfALostRoundDoesNotCount() throws {
    let digests = SentDigests()
    digests.begin(pageCount: 2)
    var hasher = PageHasher()
    let (old, new) = (
      hasher.digest(of: TestMemory.content(1).rawBytes),
      hasher.digest(of: TestMemory.content(2).rawBytes)
    )
    digests.sent(0, old, round: 1)
    digests.lost(round: 2)
    digests.sent(0, new, round: 2)
    #expect(digests.isAsSent(0, old) && !digests.isAsSent(0, new))
    digests.sent(0, new, round: 3)
    #expect(digests.isAsSent(0, new))
  }

  /// The rounds are ended while the paused VM's memory is looked at: nothing is taken for
  /// unwritten, and nobody waits for the rest.
  @Test func aLookBehindTheEndOfTheRoundsIsAnError() throws {
    let memory = try TestMemory(pageCount: 4)
    let backing = try memory.open()
    let digests = SentDigests()
    let log = try ContentLog(vmName: "test", backing, backing.naturalLayout, digests)
    try log.startDirtyLog()
    digests.end()
    var hasher = PageHasher()
    let digest = hasher.digest(of: TestMemory.content(0).rawBytes)
    #expect(!digests.isAsSent(0, digest))
    #expect(throws: VMMError.self) { _ = try log.fetchDirtyLog() }
  }

  /// Rounds of a VM that nobody watches: what it writes while it is being sent is found.
  @Test func roundsByComparisonSendWhatWasWritten() throws {
    let memory = try TestMemory(pageCount: 96)
    try memory.fill(0..<64)
    let backing = try memory.open()
    let seeds = SentSeeds(deltaCacheByteCount: 0)
    let migration = try TestMigration(backing, bulkCount: 2, sentSeeds: seeds)
    let log = try ContentLog(vmName: "test", backing, migration.layout, seeds.digests)
    let seeder = Seeder(
      layout: migration.layout, log: log,
      limits: SwitchLimits(downtimeNanoseconds: 0, maximumRoundCount: 2), seeds: seeds)
    let destination = SeederTests.Destination()
    let hasWritten = Lock<Set<UInt64>>([])
    let threads = try migration.bulk.map { peer in
      try TestThread {
        try destination.serve(peer, migration.layout) { round in
          guard hasWritten.withLock({ $0.insert(round).inserted }) else { return }
          try? memory.write(TestMemory.content(1000 + Int(round)), page: 3)
          try? memory.write(TestMemory.content(2000), page: 70 + Int(round))
        }
      }
    }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(end.isDecided)
    #expect(notes.withLock { $0.map(\.result.dirtiedByteCount) } == [2 * 4096, 2 * 4096])
    let (stale, fresh) = try seeder.finish()
    #expect((0..<96).filter { stale[$0] } == [3, 72] && fresh.setCount == 94)
    #expect(destination.pages.withLock { $0[71] } == TestMemory.content(2000))
    migration.plane.cut()
    for peer in migration.bulk { peer.connection.shutdown() }
    for thread in threads { try? thread.finish() }
  }

  // MARK: Choice

  private final class RefusingLog: DirtyLog {
    let problem: VMMError.Problem
    init(_ problem: VMMError.Problem) { self.problem = problem }
    func startDirtyLog() throws(VMMError) {
      throw VMMError(vmName: "test", verb: .startDirtyLog, address: "test", problem: problem)
    }
    func fetchDirtyLog() throws(VMMError) -> [UInt8] { [] }
    func stopDirtyLog() throws(VMMError) {}
  }

  @Test func theFirstLogThatBeginsIsUsed() throws {
    let scripted = ScriptedLog(pageCount: 8)
    let log = ChosenLog([(.vmm, RefusingLog(.refused("no"))), (.content, scripted)])
    try log.startDirtyLog()
    #expect(log.tracking == .content)
    scripted.write([5])
    #expect(pages(try log.fetchDirtyLog(), 8) == [5])
    try log.stopDirtyLog()
    #expect(!scripted.state.withLock { $0.isWatching })
  }

  /// Whoever may have begun is not left to itself.
  @Test func aLogThatFailsIsNoReasonForAnother() throws {
    let scripted = ScriptedLog(pageCount: 8)
    let log = ChosenLog([(.vmm, RefusingLog(.silent("nothing"))), (.content, scripted)])
    #expect(throws: VMMError.self) { try log.startDirtyLog() }
    #expect(scripted.state.withLock { $0.startCount } == 0)
  }

  @Test func noLogIsAnError() throws {
    let log = ChosenLog([(.vmm, RefusingLog(.refused("no")))])
    #expect(throws: VMMError.self) { try log.startDirtyLog() }
  }
}
