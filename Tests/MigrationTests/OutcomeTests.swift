import Migration
import Testing
import Wire

@Suite("Outcome and EffectQueue")
struct OutcomeTests {
  @Test("each ending is one exit code of the design")
  func exitCodes() {
    let codes = Ending.allCases.map(\.exitCode)
    #expect(codes == [0, 10, 11, 12])
  }

  @Test("the message names the VM, the cause, both hosts and what to do")
  func message() {
    let outcome = Outcome(
      ending: .parked, reason: Refusal(.timeout, "the link is lost"), source: .stopped,
      destination: .mayRun)
    let message = outcome.message(vmName: "db-7")
    #expect(
      message.hasPrefix(
        "VM db-7: parked: the link is lost. Source: the VM is stopped, everything is kept. "
          + "Destination: the VM may be running."))
    #expect(message.contains("Do not start the VM by hand"))
  }

  @Test("every ending and host state has words of its own")
  func words() {
    #expect(Set(HostState.allCases.map(\.phrase)).count == HostState.allCases.count)
    let messages = Ending.allCases.map {
      Outcome(ending: $0, reason: nil, source: .runs, destination: .killed).message(vmName: "v")
    }
    #expect(Set(messages).count == Ending.allCases.count)
  }

  @Test("effects come out in order, and the queue is reused")
  func queueOrder() {
    var queue = EffectQueue<Int>()
    for round in 0..<3 {
      for value in 0..<EffectQueue<Int>.capacity { queue.append(round * 100 + value) }
      for value in 0..<EffectQueue<Int>.capacity { #expect(queue.next() == round * 100 + value) }
      #expect(queue.isEmpty)
      #expect(queue.next() == nil)
    }
  }

  @Test("an overflow is a bug of ours and stops the process")
  func queueOverflow() async {
    await #expect(processExitsWith: .failure) {
      var queue = EffectQueue<Int>()
      for value in 0...EffectQueue<Int>.capacity { queue.append(value) }
    }
  }
}
