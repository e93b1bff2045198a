import Synchronization
import System
import Testing

@Suite struct PrecedenceLockTests {
  private enum Taker: Hashable, Sendable { case first, other }

  private final class Shared: Sendable {
    let lock = PrecedenceLock([Taker]())
    let isHeld: WakeEvent
    let isDone: WakeEvent
    let isOver = Atomic<Bool>(false)

    init() throws {
      isHeld = try WakeEvent()
      isDone = try WakeEvent()
    }
  }

  /// Gives the lock back when the first thread waits for it, and takes it again at once: of a mutex
  /// it would have it long before the other one is awake.
  @Test(arguments: [0, 2])
  func whoeverTakesItAgainLetsTheFirstThreadBy(crowdCount: Int) throws {
    let shared = try Shared()
    let first = try SerialWorker(name: "first", capacity: 2)
    let other = try SerialWorker(name: "other", capacity: 2)
    let crowd = try (0..<crowdCount).map { try SerialWorker(name: "crowd \($0)", capacity: 1) }
    for worker in crowd {
      _ = worker.run {
        while !shared.isOver.load(ordering: .relaxed) { shared.lock.withLock { _ in } }
      }
    }
    _ = first.run { shared.lock.claimPrecedence() }
    for _ in 0..<200 {
      _ = other.run {
        shared.lock.withLock { takers in
          takers = []
          shared.isHeld.signal()
          while !shared.lock.isAwaitedByFirst {}
        }
        shared.lock.withLock { $0.append(.other) }
        shared.isDone.signal()
      }
      _ = try Readiness.wait(for: [shared.isHeld.rawValue])
      shared.isHeld.drain()
      _ = first.run { shared.lock.withLock { $0.append(.first) } }
      _ = try Readiness.wait(for: [shared.isDone.rawValue])
      shared.isDone.drain()
      #expect(shared.lock.withLock { $0 } == [.first, .other])
    }
    shared.isOver.store(true, ordering: .relaxed)
    for worker in crowd + [first, other] { worker.stop() }
  }

  /// Nobody waits for a thread that does not want it, or that has it no more.
  @Test func withoutItsThreadItIsALock() throws {
    let lock = PrecedenceLock(0)
    let workers = try (0..<4).map { try SerialWorker(name: "\($0)", capacity: 1) }
    for (number, worker) in workers.enumerated() {
      _ = worker.run {
        if number < 2 { lock.claimPrecedence() }
        for _ in 0..<10_000 { lock.withLock { $0 += 1 } }
      }
    }
    for worker in workers { worker.stop() }
    #expect(lock.withLock { $0 } == 40_000)
    #expect(!lock.isAwaitedByFirst)
  }
}
