import Glibc
import Pages
import System
import Testing

@Suite("Mailbox")
struct MailboxTests {
  @Test("messages come out in the order in which one thread put them in")
  func order() throws {
    let mailbox = try Mailbox<Int>(capacity: 4)
    for round in 0..<10 {
      #expect(mailbox.post(round))
      #expect(mailbox.post(round + 100))
      #expect(mailbox.take() == round)
      #expect(mailbox.take() == round + 100)
      #expect(mailbox.take() == nil)
    }
  }

  @Test("a full mailbox refuses and keeps what it has")
  func full() throws {
    let mailbox = try Mailbox<Int>(capacity: 2)
    let accepted = [mailbox.post(1), mailbox.post(2), mailbox.post(3)]
    #expect(accepted == [true, true, false])
    #expect(mailbox.take() == 1)
    #expect(mailbox.post(4))
    #expect(mailbox.take() == 2)
    #expect(mailbox.take() == 4)
  }

  @Test("a deadline in the past ends the wait, and a message beats the deadline")
  func deadline() throws {
    let mailbox = try Mailbox<Int>(capacity: 2)
    #expect(mailbox.receive(until: MonotonicClock.now()) == nil)
    #expect(mailbox.post(7))
    #expect(mailbox.receive(until: Instant(nanoseconds: 0)) == 7)
  }

  @Test("no message of four threads is lost or doubled, and the receiver never misses a wake-up")
  func threads() throws {
    let mailbox = try Mailbox<Int>(capacity: 8)
    let perThread = 5_000
    // Threads of their own: tasks would need the very threads that this test blocks.
    let senders = try (0..<4).map { sender in
      let worker = try SerialWorker(name: "sender", capacity: 1)
      let isTaken = worker.run {
        for number in 0..<perThread {
          while !mailbox.post(sender * perThread + number) { sched_yield() }
        }
      }
      #expect(isTaken)
      return worker
    }
    var seen = PageBitmap(pageCount: 4 * perThread)
    var next = [Int](repeating: 0, count: 4)
    for _ in 0..<4 * perThread {
      let message = try #require(mailbox.receive())
      let isNew = seen.insert(message)
      #expect(isNew)
      #expect(message % perThread == next[message / perThread])
      next[message / perThread] += 1
    }
    #expect(mailbox.take() == nil)
    for sender in senders { sender.stop() }
  }
}
