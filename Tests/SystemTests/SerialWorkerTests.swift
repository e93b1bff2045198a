import Pages
import System
import Testing

@Suite("SerialWorker and Readiness")
struct SerialWorkerTests {
  @Test("commands run one at a time, in order, and stop waits for them")
  func order() throws {
    let worker = try SerialWorker(name: "test", capacity: 100)
    let seen = Lock([Int]())
    for number in 0..<100 {
      let isTaken = worker.run { seen.withLock { $0.append(number) } }
      #expect(isTaken)
    }
    worker.stop()
    worker.stop()
    #expect(seen.withLock { $0 } == Array(0..<100))
  }

  @Test("a worker whose queue is full refuses, and can still be stopped")
  func full() throws {
    let gate = try WakeEvent()
    let started = try WakeEvent()
    let worker = try SerialWorker(name: "test", capacity: 1)
    let isFirstTaken = worker.run {
      started.signal()
      _ = try? Readiness.wait(for: [gate.rawValue])
    }
    _ = try Readiness.wait(for: [started.rawValue])
    let answers = [isFirstTaken, worker.run {}, worker.run {}]
    #expect(answers == [true, true, false])
    gate.signal()
    worker.stop()
  }

  @Test("readiness names the descriptors that are ready, and none after a deadline")
  func readiness() throws {
    let events = [try WakeEvent(), try WakeEvent()]
    let descriptors = events.map(\.rawValue)
    let past = MonotonicClock.now()
    #expect(try Readiness.wait(for: descriptors, until: past) == [false, false])
    events[1].signal()
    #expect(try Readiness.wait(for: descriptors) == [false, true])
  }
}
