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

  @Test("every host state has words of its own")
  func words() {
    #expect(Set(HostState.allCases.map(\.phrase)).count == HostState.allCases.count)
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
