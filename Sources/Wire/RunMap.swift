internal import Codec
public import Pages

/// The payload of a `zeroMap` or `discardMap` frame: runs of pages.
///
/// Entries of 16 bytes: region u16, reserved u16, page index u32, page count u64. An entry may
/// cover a whole region; the receiver installs nothing, so the bound on a frame's pages does not
/// hold here.
public struct RunMap: Sendable {
  /// Runs that read as zeros.
  public static let zero = RunMap(type: .zeroMap)
  /// Runs whose seeds are stale.
  public static let discard = RunMap(type: .discardMap)

  private let type: FrameType

  /// The whole frame for 1 to `WireLimits.maximumZeroMapRunCount` runs, ready to be sent; `isLast`
  /// for the end of the discards.
  public func encodedFrame(
    _ runs: ArraySlice<PageRun>, isLast: Bool = false, session: UInt32
  ) -> [UInt8] {
    invariant(
      (1...WireLimits.maximumZeroMapRunCount).contains(runs.count),
      "a map's frame has one run at least and keeps their bound")
    var payload: [UInt8] = []
    payload.reserveCapacity(runs.count * WireLimits.zeroMapEntryByteCount)
    for run in runs {
      invariant(run.start.rawValue <= UInt64(UInt32.max), "page indices fit 32 bits")
      payload.appendLittleEndian(run.region.rawValue)
      payload.appendLittleEndian(UInt16(0))
      payload.appendLittleEndian(UInt32(run.start.rawValue))
      payload.appendLittleEndian(run.count.rawValue)
    }
    var frame: [UInt8] = []
    FrameBuilder.append(type, isLast: isLast, session: session, payload: payload, to: &frame)
    return frame
  }

  /// How many runs a payload of such a frame holds; throws unless it holds whole ones.
  public func runCount(in payload: RawSpan) throws(WireError) -> Int {
    try payload.expectBounds(of: type)
    // Rounded down; the next line refuses what is left over.
    let count = payload.byteCount / WireLimits.zeroMapEntryByteCount
    try payload.expectByteCount(count * WireLimits.zeroMapEntryByteCount, of: type)
    return count
  }

  /// The run at `position`, below `runCount`; throws unless the image has all its pages.
  public func run(
    at position: Int, in payload: RawSpan, of layout: ImageLayout
  ) throws(WireError) -> PageRun {
    let start = position * WireLimits.zeroMapEntryByteCount
    guard payload.loadLittleEndian(at: start + 2, as: UInt16.self) == 0 else {
      throw .notZero(type, .reserved)
    }
    let run = PageRun(
      region: RegionIndex(rawValue: payload.loadLittleEndian(at: start)),
      start: PageIndex(rawValue: UInt64(payload.loadLittleEndian(at: start + 4, as: UInt32.self))),
      count: PageCount(rawValue: payload.loadLittleEndian(at: start + 8)))
    guard run.count.rawValue > 0 else { throw .value(type, .pageCount, found: 0) }
    guard layout.contains(run) else { throw .unknownPages(type, run) }
    return run
  }
}
