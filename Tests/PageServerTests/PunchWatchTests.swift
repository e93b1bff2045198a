import Glibc
import Migration
import Pages
import System
import Testing
import UFFD
import VMM

@testable import PageServer

/// What is told of a memory file that this process writes, and of pages that are punched out of it.
@Suite(.enabled(if: hasWriteTracking, "needs userfaultfd with asynchronous write protection"))
struct PunchWatchTests {
  /// A memory file whose writes are watched, and what a destination has of it.
  private final class Watched {
    let memory: MappedMemory
    let log: PagemapLog
    private let descriptor: UserfaultDescriptor
    private var there: [Int: [UInt8]] = [:]
    /// Told, and not sent since.
    private(set) var pending: Set<Int> = []

    init(
      pageCount: Int, isShared: Bool = true, isHuge: Bool = false, filled: Range<Int>
    ) throws {
      memory = try MappedMemory(pageCount: pageCount, isShared: isShared, isHuge: isHuge)
      for page in filled { memory.write(1, page: page) }
      descriptor = try memory.register()
      log = try #require(try memory.log())
      try log.startDirtyLog()
      try send(Array(0..<pageCount))
    }

    /// As a round does it.
    func send(_ pages: [Int], beforeTheReads: () -> Void = {}) throws {
      var round = PageBitmap(pageCount: memory.pageCount)
      for page in pages { round.insert(page) }
      memory.seeds.punches.willSend(round)
      beforeTheReads()
      let zeros = [UInt8](repeating: 0, count: memory.pageByteCount)
      for page in pages {
        let contents = try memory.backing.read(page: page, pageByteCount: memory.pageByteCount)
        if contents != zeros {
          memory.seeds.punches.sending(page..<page + 1)
        }
        there[page] = contents
        pending.remove(page)
      }
    }

    /// What is told. Everything else that nobody has still to send is as it was sent.
    func look() throws -> [Int] {
      let bits = try log.fetchDirtyLog()
      let unit = memory.pageByteCount / 4096
      let told = (0..<memory.pageCount).filter {
        let bit = $0 * unit
        return bits[bit >> 3] & 1 << UInt8(bit & 7) != 0
      }
      pending.formUnion(told)
      let changed = try (0..<memory.pageCount).filter { page in
        guard !pending.contains(page) else { return false }
        let contents = try memory.backing.read(page: page, pageByteCount: memory.pageByteCount)
        return contents != there[page]
      }
      #expect(changed == [])
      return told
    }
  }

  @Test func whatIsWrittenIsTold() throws {
    let watched = try Watched(pageCount: 64, filled: 0..<32)
    #expect(try watched.look() == [])
    // In the file, and not in it before.
    for page in [0, 5, 31, 40, 63] { watched.memory.write(2, page: page) }
    let told = try watched.look()
    #expect(told == [0, 5, 31, 40, 63])
    try watched.send(told)
    #expect(try watched.look() == [])
  }

  /// Huge pages of private memory are given back, which leaves no page table, written and sent, and
  /// given back once more: each look finds nothing there, and the destination has content. Kernels
  /// that pass over such places in a scan (before 2026) do not tell it as written.
  @Test func privateMemoryThatIsGivenBackBehindItsBeingSentIsTold() throws {
    let watched = try Watched(pageCount: 2048, isShared: false, filled: 0..<0)
    #expect(try watched.look() == [])
    // Three huge pages at least, wherever the memory begins, and where this host makes any.
    watched.memory.advise(0..<2048, MADV_HUGEPAGE)
    for page in 0..<2048 { watched.memory.write(1, page: page) }
    try watched.send(try watched.look())
    watched.memory.drop(0..<2048)
    let told = try watched.look()
    #expect(told == Array(0..<2048))
    try watched.send(told) {
      for page in 0..<2048 { watched.memory.write(2, page: page) }
    }
    watched.memory.drop(0..<2048)
    #expect(try watched.look() == Array(0..<2048))
    try watched.send(Array(0..<2048))
    // It went as zeros, and is.
    #expect(try watched.look() == [])
  }

  @Test func whatIsPunchedIsToldUntilItIsSent() throws {
    let watched = try Watched(pageCount: 64, filled: 0..<32)
    watched.memory.drop(4..<7)
    #expect(try watched.look() == [4, 5, 6])
    #expect(try watched.look() == [4, 5, 6])
    try watched.send([4, 5, 6])
    #expect(try watched.look() == [])
    // Of what was never there, and of what was sent as zeros, nothing is new.
    watched.memory.drop(40..<50)
    watched.memory.drop(5..<6)
    #expect(try watched.look() == [])
  }

  /// The kernel's record of writes does not tell of these.
  @Test func whatIsPunchedAndReadIsTold() throws {
    let watched = try Watched(pageCount: 64, filled: 0..<32)
    watched.memory.drop(4..<7)
    #expect(watched.memory.read(page: 5) == 0)
    #expect(try watched.look() == [4, 5, 6])
    try watched.send([4, 5, 6])
    #expect(try watched.look() == [])
    watched.memory.write(3, page: 5)
    #expect(try watched.look() == [5])
  }

  @Test func whatIsPunchedAndWrittenIsTold() throws {
    let watched = try Watched(pageCount: 64, filled: 0..<32)
    watched.memory.drop(8..<9)
    watched.memory.write(9, page: 8)
    let told = try watched.look()
    #expect(told == [8])
    try watched.send(told)
    #expect(try watched.look() == [])
    // What was written and sent counts as much as what was there from the start.
    watched.memory.drop(8..<9)
    #expect(watched.memory.read(page: 8) == 0)
    #expect(try watched.look() == [8])
  }

  /// A fault maps neighbours that are in the file: none of them is to come back by that.
  @Test func whatIsSentBesideAPunchedPageDoesNotHideIt() throws {
    let watched = try Watched(pageCount: 64, filled: 0..<64)
    watched.memory.drop(20..<22)
    _ = watched.memory.read(page: 20)
    _ = watched.memory.read(page: 21)
    #expect(try watched.look() == [20, 21])
    // One of them is sent, and so made to appear, before anybody looks again.
    watched.memory.drop(22..<23)
    _ = watched.memory.read(page: 22)
    try watched.send([21])
    #expect(try watched.look() == [20, 22])
    try watched.send([20, 22])
    #expect(try watched.look() == [])
  }

  /// All the moments at which a page of a round can be punched.
  @Test func whatIsPunchedInTheMiddleOfARoundIsTold() throws {
    let watched = try Watched(pageCount: 64, filled: 0..<64)
    try watched.send(
      [10, 11],
      beforeTheReads: {
        watched.memory.drop(10..<11)
        _ = watched.memory.read(page: 10)
        watched.memory.drop(30..<31)
        _ = watched.memory.read(page: 30)
      })
    watched.memory.drop(11..<12)
    _ = watched.memory.read(page: 11)
    // Page 10 was sent as the zeros that it is.
    #expect(try watched.look() == [11, 30])
  }

  /// Dropped from the VM's page tables, and in the file as before.
  @Test func whatIsOnlyUnmappedIsRight() throws {
    let watched = try Watched(pageCount: 1536, filled: 0..<1536)
    watched.memory.drop(3..<5, MADV_DONTNEED)
    watched.memory.write(7, page: 9)
    watched.memory.drop(9..<10, MADV_DONTNEED)
    // A whole page table's worth, of which one page was written.
    watched.memory.write(7, page: 700)
    watched.memory.drop(0..<1536, MADV_DONTNEED)
    #expect(Set([9, 700]).isSubset(of: try watched.look()))
  }

  /// A memory of which most was never touched is not for ever written.
  @Test func whatWasNeverTouchedIsNotTold() throws {
    let watched = try Watched(pageCount: 4096, filled: 1..<2)
    #expect(try watched.look() == [])
    // In a stretch without a page table: written, and only read.
    watched.memory.write(1, page: 1800)
    #expect(watched.memory.read(page: 3000) == 0)
    let told = try watched.look()
    #expect(told.contains(1800))
    try watched.send(told)
    watched.memory.drop(1800..<1801)
    _ = watched.memory.read(page: 1800)
    #expect(try watched.look().contains(1800))
  }

  /// Looking costs the host no memory.
  @Test func holesStayHoles() throws {
    let watched = try Watched(pageCount: 256, filled: 16..<32)
    let file = try #require(watched.memory.file)
    let before = file.blockCount()
    watched.memory.drop(20..<24)
    for _ in 0..<3 { try watched.send(try watched.look()) }
    #expect(file.blockCount() == before - 4 * 8)
  }

  @Test func whateverTheVMDoesWhatIsNotToldIsAsItWasSent() throws {
    for seed in UInt64(1)...4 {
      var random = ExportRandom(seed: seed)
      let watched = try Watched(pageCount: 1100, filled: 0..<800)
      for _ in 0..<15 {
        let act = {
          for _ in 0..<40 {
            let page = Int.random(in: 0..<1100, using: &random)
            let end = min(page + Int.random(in: 1...20, using: &random), 1100)
            switch Int.random(in: 0..<6, using: &random) {
            case 0, 1: watched.memory.write(.random(in: 0...255, using: &random), page: page)
            case 2: watched.memory.drop(page..<end)
            case 3: watched.memory.drop(page..<end, MADV_DONTNEED)
            default: for page in page..<end { _ = watched.memory.read(page: page) }
            }
          }
        }
        act()
        _ = try watched.look()
        var round = watched.pending.sorted()
        // Some are left over for another round.
        round.removeAll { _ in Int.random(in: 0..<10, using: &random) == 0 }
        act()
        try watched.send(round, beforeTheReads: act)
        act()
      }
    }
  }

  /// What the rounds and the senders tell the watch: a round makes its pages appear before it reads
  /// them, and notes those that go with content.
  @Test func aRoundSendsWhatWasPunchedAndReadSinceTheLast() throws {
    let memory = try MappedMemory(pageCount: 96, isShared: true)
    for page in 0..<64 { memory.write(1, page: page) }
    let descriptor = try memory.register()
    let log = try #require(try memory.log())
    let migration = try TestMigration(memory.backing, sentSeeds: memory.seeds)
    let seeder = Seeder(
      layout: migration.layout, log: log,
      limits: SwitchLimits(downtimeNanoseconds: 0, maximumRoundCount: 2), seeds: memory.seeds)
    let destination = SeederTests.Destination()
    let peer = migration.bulk[0]
    let layout = migration.layout
    let firstRound = Lock<[UInt8]>([])
    let thread = try TestThread {
      try destination.serve(peer, layout) { round in
        guard round == 1 else { return }
        firstRound.withLock { $0 = destination.pages.withLock { $0[5] ?? [] } }
        memory.drop(5..<6)
        // As the VM reads it: a new page of zeros, which no record of writes tells.
        if memory.read(page: 5) != 0 { Issue.record("a punched page holds something") }
      }
    }
    let notes = Lock<[SeedRoundNote]>([])
    let end = try seeder.run(over: migration.plane) { note in
      notes.withLock { $0.append(note) }
    }
    #expect(end.isDecided)
    // Content in the first round, zeros in the second, and nothing else with them.
    #expect(firstRound.withLock { $0.count } == 4096)
    #expect(destination.pages.withLock { $0[5] } == [])
    #expect(notes.withLock { $0.map(\.result.dirtiedByteCount) } == [4096, 0])
    let (stale, fresh) = try seeder.finish()
    #expect(stale.setCount == 0 && fresh.setCount == 96)
    seeder.stopLog()
    migration.plane.discard(stale, keeping: fresh)
    try migration.beginServing()
    migration.plane.beginPush()
    try thread.finish()
    withExtendedLifetime(descriptor.features) {}
  }

  // MARK: Huge pages

  @Test(.enabled(if: hasHugePages, "needs free huge pages"))
  func hugePagesToo() throws {
    let watched = try Watched(pageCount: 8, isHuge: true, filled: 0..<5)
    // Of what the VM has not mapped nobody knows whether it is in the file.
    #expect(Set(try watched.look()).isSubset(of: [5, 6, 7]))
    watched.memory.write(2, page: 1)
    watched.memory.drop(2..<4)
    _ = watched.memory.read(page: 3)
    let told = try watched.look()
    #expect(told.filter { $0 < 5 } == [1, 2, 3])
    try watched.send(told)
    #expect(try watched.look().filter { $0 < 5 && $0 != 2 } == [])
    watched.memory.drop(1..<2)
    _ = watched.memory.read(page: 1)
    #expect(try watched.look().contains(1))
  }

  // MARK: What can be watched

  /// What another mapping writes is not seen, so its being there ends the log.
  @Test(arguments: [false, true])
  func aSecondWritableMappingOfALaterTimeIsNoticed(byProtection: Bool) throws {
    let watched = try Watched(pageCount: 64, filled: 0..<32)
    let file = try #require(watched.memory.file)
    // unsafe: a mapping of a page of our own, unmapped below; nothing is written there.
    let other = unsafe mmap(
      nil, 4096, byProtection ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED,
      file.descriptor.rawValue, 0)
    guard let address = unsafe other, unsafe address != MAP_FAILED else {
      throw SystemError("mmap")
    }
    defer { unsafe munmap(address, 4096) }
    if byProtection {
      #expect(try watched.look() == [])
      let result = unsafe mprotect(address, 4096, PROT_READ | PROT_WRITE)
      try #require(result == 0)
    }
    for look in [watched.log.fetchDirtyLog, watched.log.fetchFinalDirtyLog] {
      let error = try #require(throws: VMMError.self) { _ = try look() }
      #expect("\(error)".contains("a second time"))
    }
    let error = try #require(throws: VMMError.self) { try watched.log.startDirtyLog() }
    #expect(error.isCertainlyWithoutEffect)
  }

  @Test(arguments: ["always", "within_size", "advise", "unknown", nil])
  func aFileThatMayGetHugePagesIsRefused(setting: String?) throws {
    let memory = try MappedMemory(pageCount: 8, isShared: true)
    let descriptor = try memory.register()
    let log = try #require(try memory.log(hugePages: setting))
    let error = try #require(throws: VMMError.self) { try log.startDirtyLog() }
    #expect(error.isCertainlyWithoutEffect && "\(error)".contains("huge pages"))
    // Private memory is told of by the kernel itself.
    let own = try MappedMemory(pageCount: 8, isShared: false)
    let ownDescriptor = try own.register()
    let ownLog = try #require(try own.log(hugePages: setting))
    try ownLog.startDirtyLog()
    withExtendedLifetime((descriptor.features, ownDescriptor.features)) {}
  }
}
