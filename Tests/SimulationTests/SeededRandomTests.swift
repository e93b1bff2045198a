import Simulation
import Testing

@Suite("SeededRandom")
struct SeededRandomTests {
  @Test("the sequence is SplitMix64's, as published for seed 1234567")
  func knownSequence() {
    var random = SeededRandom(seed: 1_234_567)
    let first = (0..<5).map { _ in random.next() }
    #expect(
      first == [
        6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
        4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
      ])
  }

  @Test("draws stay inside their ranges, at both ends")
  func ranges() {
    var random = SeededRandom(seed: 9)
    var seen: Set<Int> = []
    for _ in 0..<200 {
      seen.insert(random.number(in: 3..<6))
      let nanoseconds = random.nanoseconds(in: 10..<12)
      #expect(nanoseconds == 10 || nanoseconds == 11)
      let never = random.chance(perMille: 0)
      let always = random.chance(perMille: 1000)
      #expect(!never && always)
    }
    #expect(seen == [3, 4, 5])
  }
}
