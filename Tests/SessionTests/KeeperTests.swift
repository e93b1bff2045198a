import Pages
import System
import Testing

@testable import Session

@Suite("Keepers and restarts")
struct KeeperTests {
  @Test("Every message comes back from its bytes, and nothing else is one")
  func messages() throws {
    let messages: [KeeperMessage] = [
      .keep(name: "userfaultfd"), .handedOver, .release, .finished(exitCode: -1),
      .finished(exitCode: 12),
    ]
    for message in messages { #expect(try KeeperMessage(message.bytes) == message) }
    let bad: [[UInt8]] = [
      [], [1], [2, 2], [1, 9], [1, 2, 0], [1, 4, 0, 0], [1, 1, 0], [1, 1, 2, 0x61],
      [1, 1, 1, 0x20], [1, 1, 1, 0x3A],
    ]
    for bytes in bad {
      #expect(throws: JournalFormatError.self, "\(bytes)") { _ = try KeeperMessage(bytes) }
    }
  }

  @Test("A name has one descriptor, the latest, and the number of descriptors has a limit")
  func keep() throws {
    var keep = DescriptorKeep()
    let first = KeptDescriptor(name: "a", try OwnedDescriptor.event())
    let second = KeptDescriptor(name: "a", try OwnedDescriptor.event())
    let areKept = keep.add(first) && keep.add(second)
    #expect(areKept)
    #expect(keep.descriptors.count == 1 && keep.first(named: "a") === second)
    for number in 1..<DescriptorKeep.capacity {
      let isKept = keep.add(KeptDescriptor(name: "n\(number)", try OwnedDescriptor.event()))
      #expect(isKept)
    }
    let isOneMoreKept = keep.add(KeptDescriptor(name: "more", try OwnedDescriptor.event()))
    #expect(!isOneMoreKept)
    // No userfaultfd among them: nothing depends on this process.
    #expect(keep.reasonToStay() == nil)
    keep.release()
    #expect(keep.descriptors.isEmpty)
  }

  @Test("A keeper that dies, or was never there, is no trouble, and all is held for the next")
  func withoutKeeper() throws {
    let client = KeeperClient()
    #expect(!client.hasKeeper)
    try client.keep("a", OwnedDescriptor.event())
    do {
      var pair = try DescriptorStreamPair.packets()
      let isAdopted = client.adopt(DescriptorStream(adopting: pair.takeSecond()))
      #expect(isAdopted && client.hasKeeper)
      _ = pair.takeFirst()
    }
    #expect(!client.hasKeeper)
    try client.keep("b", OwnedDescriptor.event())
    client.release()
    try client.keep("c", OwnedDescriptor.event())
    var pair = try DescriptorStreamPair.packets()
    let channel = KeeperChannel(pair.takeFirst())
    let isAdopted = client.adopt(DescriptorStream(adopting: pair.takeSecond()))
    #expect(isAdopted)
    guard case .kept(let kept) = try channel.receive(until: MonotonicClock.now()) else {
      throw TestProcessError(description: "nothing came")
    }
    #expect(kept.name == "c")
  }

  @Test("The first restart comes at once, each later one after twice the pause, up to a limit")
  func pauses() {
    var budget = RestartBudget(
      limits: RestartLimits(
        maximumCount: 6, windowNanoseconds: 1000, firstPauseNanoseconds: 10,
        longestPauseNanoseconds: 50))
    let now = Instant(nanoseconds: 100)
    let pauses = (1...6).map { count in
      RestartBudget.Decision.restart(
        at: now.advanced(byNanoseconds: [0, 10, 20, 40, 50, 50][count - 1]), count: count)
    }
    let decisions = (1...7).map { _ in budget.workerDied(now: now) }
    #expect(decisions == pauses + [.giveUp(count: 6)])
  }

  @Test("What was long ago does not count")
  func window() {
    var budget = RestartBudget(
      limits: RestartLimits(
        maximumCount: 1, windowNanoseconds: 1000, firstPauseNanoseconds: 10,
        longestPauseNanoseconds: 50))
    let decisions = [0, 999, 1000].map { budget.workerDied(now: Instant(nanoseconds: $0)) }
    #expect(
      decisions == [
        .restart(at: Instant(nanoseconds: 0), count: 1), .giveUp(count: 1),
        .restart(at: Instant(nanoseconds: 1000), count: 1),
      ])
  }
}
