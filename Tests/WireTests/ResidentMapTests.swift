import Codec
import Pages
import Testing
import Wire

@Suite struct ResidentMapTests {
  /// Frames of a map whose runs alternate, beginning with awaited; a first 0 turns that round.
  private func frames(_ runs: [Int]) -> [[UInt8]] {
    var encoder = ResidentMap.Encoder(session: Samples.shortID)
    var frames: [[UInt8]] = []
    for (position, count) in runs.enumerated() where count > 0 {
      encoder.append(pageCount: count, isResident: position % 2 == 1)
      if encoder.isFull || position == runs.count - 1 {
        frames.append(encoder.takeFrame(isLast: position == runs.count - 1))
      }
    }
    return frames
  }

  private func decode(_ frames: [[UInt8]], total: Int) throws -> [Range<Int>] {
    var decoder = ResidentMap.Decoder(totalPageCount: PageCount(total))
    var resident: [Range<Int>] = []
    for frame in frames {
      let header = try FrameHeader(bytes: frame)
      try decoder.take(
        payload(ofFrame: frame).rawBytes, isLast: header.flags.contains(.last)
      ) { resident.append($0) }
    }
    #expect(decoder.isComplete)
    return resident
  }

  @Test(arguments: [[300], [0, 300], [1, 1, 1, 297], [0, 5, 290, 5], [127, 128, 45]])
  func smallMapsRoundTrip(_ runs: [Int]) throws {
    var expected: [Range<Int>] = []
    var start = 0
    for (position, count) in runs.enumerated() {
      if position % 2 == 1 { expected.append(start..<start + count) }
      start += count
    }
    #expect(try decode(frames(runs), total: 300) == expected)
  }

  /// A page that is installed between two looks makes two runs of one kind meet.
  @Test func lookedAtInPiecesItIsTheSameMap() throws {
    var encoder = ResidentMap.Encoder(session: Samples.shortID)
    let looks = [(100, false), (60, false), (7, true), (3, true), (1, true), (129, false)]
    for (pageCount, isResident) in looks {
      encoder.append(pageCount: pageCount, isResident: isResident)
    }
    let frame = encoder.takeFrame(isLast: true)
    #expect(frame == frames([160, 11, 129])[0])
    #expect(try decode([frame], total: 300) == [160..<171])
  }

  @Test func aMapOfManyFramesRoundTrips() throws {
    var random = SeededRandom(seed: 7)
    var runs: [Int] = []
    var left = 300_000
    while left > 0 {
      let count = min(left, Int(random.next() % 12) + 1)
      runs.append(count)
      left -= count
    }
    let frames = frames(runs)
    #expect(frames.count > 2)
    let resident = try decode(frames, total: 300_000)
    let wanted = runs.enumerated().filter { $0.offset % 2 == 1 }.map(\.element).reduce(0, +)
    #expect(resident.map(\.count).reduce(0, +) == wanted)
  }

  private func error(_ payload: [UInt8], isLast: Bool = true, total: Int = 300) -> WireError? {
    wireError { () throws(WireError) in
      var decoder = ResidentMap.Decoder(totalPageCount: PageCount(total))
      try decoder.take(payload.rawBytes, isLast: isLast) { _ in }
    }
  }

  private static let zero = [UInt8](repeating: 0, count: 8)

  @Test func runsKeepTheImage() {
    #expect(error(Self.zero + [0xac, 0x02]) == nil)
    #expect(error(Self.zero + [0xad, 0x02]) == .value(.residentMap, .runLength, found: 301))
    #expect(error(Self.zero + [100]) == .value(.residentMap, .runLength, found: 100))
    let endsEarly = error(Self.zero + [0xac, 0x02], isLast: false)
    #expect(endsEarly == .value(.residentMap, .runLength, found: 300))
  }

  @Test func onlyTheFirstRunMayBeEmpty() {
    #expect(error(Self.zero + [0, 0xac, 0x02]) == nil)
    #expect(
      error(Self.zero + [1, 0, 0xab, 0x02]) == .value(.residentMap, .runLength, found: 0))
  }

  @Test func aNumberHasOneForm() {
    #expect(error(Self.zero + [0x81, 0x00, 0xab, 0x02]) != nil)
    #expect(error(Self.zero + [0x80]) != nil)
    #expect(error(Self.zero + [UInt8](repeating: 0xff, count: 9)) != nil)
  }

  @Test func framesFollowEachOther() throws {
    var decoder = ResidentMap.Decoder(totalPageCount: PageCount(300))
    try decoder.take((Self.zero + [5]).rawBytes, isLast: false) { _ in }
    #expect(throws: WireError.value(.residentMap, .firstPage, found: 0)) {
      try decoder.take((Self.zero + [5]).rawBytes, isLast: false) { _ in }
    }
    try decoder.take(([5] + Self.zero.dropFirst() + [0xa7, 0x02]).rawBytes, isLast: true) { _ in }
    #expect(decoder.isComplete)
    #expect(throws: WireError.self) {
      try decoder.take(([44, 1] + Self.zero.dropFirst(2) + [0]).rawBytes, isLast: true) { _ in }
    }
  }
}
