import Codec
import Pages
import Testing

@testable import PageServer

@Suite struct PackingRuleTests {
  /// What an encoding makes of pages: nanoseconds for a byte, and the share that is sent.
  private typealias Cost = (packNanoseconds: Double, sentShare: Double)

  /// A sender, its kernel's buffer and a link, in virtual time: the sender blocks while the buffer
  /// is full, and the link empties it meanwhile.
  private struct Line {
    /// Bytes in a nanosecond: 0.125 is a Gbit/s.
    var linkRate: Double
    /// Reading, looking for zeros, the system call.
    var workNanoseconds = 0.15
    var costs: [PageEncoding: Cost]
    var rule: PackingRule
    private let capacity = 262_144.0
    private var now = 1e9
    private var queued = 0.0
    private var lastDrain = 1e9

    init(linkRate: Double, costs: [PageEncoding: Cost], _ packing: Packing = .automatic) {
      self.linkRate = linkRate
      self.costs = costs
      rule = PackingRule(packing)
    }

    private mutating func drain() {
      queued = max(0, queued - (now - lastDrain) * linkRate)
      lastDrain = now
    }

    /// Sends so many bytes of pages; what that took, in nanoseconds for a byte.
    mutating func send(_ byteCount: Int) -> Double {
      let start = now
      for _ in 0..<byteCount / 65_536 {
        let pages = 65_536.0
        now += workNanoseconds * pages
        let encoding = rule.nextEncoding
        let cost = encoding.flatMap { costs[$0] } ?? (0, 1)
        let packing = encoding == nil ? 0 : cost.packNanoseconds * pages
        now += packing
        // What saves less than an eighth is sent as it is.
        let sent = cost.sentShare > 0.875 ? pages : pages * cost.sentShare
        drain()
        let ready = now
        if queued + sent > capacity { now += (queued + sent - capacity) / linkRate }
        drain()
        queued += sent
        rule.sent(
          PackingRule.Frame(
            encoding: encoding, pageByteCount: 65_536, sentByteCount: Int(sent),
            packNanoseconds: UInt64(packing), waitNanoseconds: UInt64(now - ready)),
          now: Instant(nanoseconds: UInt64(now)))
      }
      return (now - start) / Double(byteCount)
    }
  }

  private static let textCosts: [PageEncoding: Cost] = [.lz4: (1.5, 0.4), .zstd: (4, 0.25)]
  private static let noiseCosts: [PageEncoding: Cost] = [.lz4: (0.4, 1), .zstd: (1.5, 1)]

  private func time(_ packing: Packing, _ rate: Double, _ costs: [PageEncoding: Cost]) -> Double {
    var line = Line(linkRate: rate, costs: costs, packing)
    return line.send(256 << 20)
  }

  /// The best of the three, but for what trying them costs.
  @Test(
    arguments: [
      // 100 Mbit/s: the tightest. 1 Gbit/s: LZ4, since zstd is slower than that. 16: none.
      (rate: 0.0125, expected: .zstd), (rate: 0.125, expected: .lz4), (rate: 2, expected: nil),
    ] as [(Double, PageEncoding?)])
  func whatIsFastestIsFound(rate: Double, expected: PageEncoding?) {
    var line = Line(linkRate: rate, costs: Self.textCosts)
    let found = line.send(256 << 20)
    #expect(line.rule.encoding == expected)
    let best = [Packing.none, .lz4, .zstd].map { time($0, rate, Self.textCosts) }.min() ?? 0
    #expect(found < best * 1.1, "\(found) ns a byte, at best \(best)")
  }

  @Test(arguments: [0.0125, 0.125, 0.6, 1, 2])
  func whatDoesNotPackCostsNextToNothing(rate: Double) {
    #expect(time(.automatic, rate, Self.noiseCosts) < time(.none, rate, Self.noiseCosts) * 1.03)
  }

  @Test func aLinkThatBecomesFastIsNoMoreWaitedFor() {
    var line = Line(linkRate: 0.0125, costs: Self.textCosts)
    _ = line.send(64 << 20)
    #expect(line.rule.encoding == .zstd)
    line.linkRate = 4
    _ = line.send(1 << 30)
    #expect(line.rule.encoding == nil)
    line.linkRate = 0.0125
    _ = line.send(512 << 20)
    #expect(line.rule.encoding == .zstd)
  }

  @Test func pagesThatBeginToPackAreFound() {
    var line = Line(linkRate: 0.0125, costs: Self.noiseCosts)
    _ = line.send(16 << 20)
    #expect(line.rule.encoding == nil)
    line.costs = Self.textCosts
    _ = line.send(256 << 20)
    #expect(line.rule.encoding == .zstd)
    line.costs = Self.noiseCosts
    _ = line.send(64 << 20)
    #expect(line.send(64 << 20) < 1.03 / 0.0125)
  }

  /// An encoding that is in use makes nothing of the pages any more, while the link is waited for.
  @Test func pagesThatStopPackingAreNotPackedForEver() {
    var line = Line(linkRate: 0.125, costs: Self.textCosts)
    _ = line.send(64 << 20)
    #expect(line.rule.encoding == .lz4)
    line.costs = Self.noiseCosts
    _ = line.send(64 << 20)
    #expect(line.rule.encoding == nil)
  }

  /// What is tried when the pages run out is not judged by what comes later.
  @Test func aTrialThatIsInterruptedIsGivenUp() {
    var line = Line(linkRate: 0.0125, costs: Self.textCosts)
    for _ in 0..<10_000 where line.rule.encoding == nil { _ = line.send(65_536) }
    #expect(line.rule.encoding != nil)
    line.rule.paused()
    #expect(line.rule.encoding == nil)
  }

  // MARK: Deltas

  /// A delta of 64 KiB that packs to a thirtieth, and takes so long.
  private func makesDeltas(_ rate: Double, nanoseconds: UInt64) -> Bool {
    var line = Line(linkRate: rate, costs: Self.noiseCosts)
    _ = line.send(256 << 20)
    line.rule.madeDelta(of: 65_536, sentByteCount: 2048, nanoseconds: nanoseconds)
    return line.rule.makesDeltas
  }

  /// While the link would take longer for what they save.
  @Test func deltasAreMadeWhereTheLinkIsSlowerThanThey() {
    #expect(makesDeltas(0.0125, nanoseconds: 100_000) && makesDeltas(0.125, nanoseconds: 100_000))
    #expect(makesDeltas(2, nanoseconds: 20_000) && !makesDeltas(2, nanoseconds: 60_000))
  }

  @Test func aLinkThatHoldsNobodyUpNeedsNone() {
    var line = Line(linkRate: 20, costs: Self.noiseCosts)
    _ = line.send(2 << 30)
    #expect(!line.rule.keepsSeeds && !line.rule.makesDeltas)
    line.linkRate = 0.0125
    _ = line.send(64 << 20)
    #expect(line.rule.keepsSeeds && line.rule.makesDeltas)
    line.linkRate = 20
    _ = line.send(2 << 30)
    line.rule.madeDelta(of: 65_536, sentByteCount: 2048, nanoseconds: 60_000)
    #expect(!line.rule.makesDeltas)
  }

  /// Pages of which everything changes: tried again in the next round.
  @Test func deltasThatSaveNothingAreNotMade() {
    var line = Line(linkRate: 0.0125, costs: Self.noiseCosts)
    _ = line.send(64 << 20)
    line.rule.madeDelta(of: 65_536, sentByteCount: 65_536, nanoseconds: 30_000)
    #expect(line.rule.keepsSeeds && !line.rule.makesDeltas)
    line.rule.paused()
    #expect(line.rule.makesDeltas)
  }

  @Test(arguments: [Packing.none, .lz4, .zstd])
  func deltasGoWithPacking(packing: Packing) {
    let rule = PackingRule(packing)
    #expect(rule.makesDeltas == (packing != .none) && rule.keepsSeeds == rule.makesDeltas)
  }

  @Test(arguments: [Packing.none, .lz4, .zstd])
  func whatIsToldIsDone(packing: Packing) {
    var line = Line(linkRate: 0.0125, costs: Self.textCosts, packing)
    _ = line.send(16 << 20)
    #expect(line.rule.nextEncoding == packing.encoding && line.rule.isDecided)
  }

  /// Rounds of a few pages with rests between them say nothing of the link.
  @Test func pausesAreNoMeasurements() {
    var rule = PackingRule(.automatic)
    for frame in 0..<1000 {
      rule.sent(
        PackingRule.Frame(
          encoding: nil, pageByteCount: 65_536, sentByteCount: 65_536, packNanoseconds: 0,
          waitNanoseconds: 90_000_000),
        now: Instant(nanoseconds: UInt64(frame) * 100_000_000))
      rule.paused()
    }
    #expect(rule.nextEncoding == nil)
  }
}
