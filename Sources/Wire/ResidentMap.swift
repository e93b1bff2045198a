internal import Codec
public import Pages

/// The payload of a `residentMap` frame: which pages the destination needs no more, because they
/// are installed, known to be zero, removed or poisoned. Sent after a reconnect, since nobody else
/// knows what became of the pages that were under way.
///
/// A first page (flat index, u64), then run lengths in pages, alternately *awaited* and *resident*,
/// beginning with awaited; each is an unsigned LEB128 number in its shortest form. Only the very
/// first may be 0. The frames of one map follow each other without a gap; the last one is flagged
/// and ends with the image.
///
/// Run lengths cost one byte for each change from awaited to resident or back, and almost nothing
/// for a memory that was pushed in order; a plain bitmap would cost 32 KiB for each GiB always.
public enum ResidentMap {
  /// A run of at most 2⁵⁶ pages has 8 bytes: above every image.
  static let maximumRunByteCount = 8

  /// Builds the frames of one map, piece by piece.
  public struct Encoder: Sendable {
    private let session: UInt32
    private var payload: [UInt8] = []
    private var next: UInt64 = 0
    /// What was added last and is not written yet: more of its kind may follow.
    private var run: (pageCount: UInt64, isResident: Bool) = (0, false)

    /// A map that begins with the image's first page.
    public init(session: UInt32) {
      self.session = session
      payload.reserveCapacity(WireLimits.maximumResidentMapPayloadByteCount)
      begin()
    }

    /// Whether the run that was added last and another one might not fit: take the frame first.
    public var isFull: Bool {
      payload.count + 2 * ResidentMap.maximumRunByteCount
        > WireLimits.maximumResidentMapPayloadByteCount
    }

    /// Adds the next pages of the image, however alike they are to those before them: pages are
    /// installed while the map is made, so that two looks may find the same on both sides of their
    /// border.
    public mutating func append(pageCount: Int, isResident: Bool) {
      invariant(pageCount > 0 && !isFull, "a run has pages and finds room")
      if isResident != run.isResident {
        endRun()
        run = (0, isResident)
      }
      run.pageCount += UInt64(pageCount)
      next += UInt64(pageCount)
    }

    /// The frame with what was added since the last one; the encoder goes on behind it.
    public mutating func takeFrame(isLast: Bool) -> [UInt8] {
      invariant(run.pageCount > 0, "a resident map frame has a run")
      endRun()
      var frame: [UInt8] = []
      FrameHeader.payload(.residentMap, isLast: isLast, session: session, payload.rawBytes)
        .appendEncoded(to: &frame)
      frame += payload
      begin()
      return frame
    }

    /// Writes the run. Only a frame that begins with resident pages has an empty one, its first.
    private mutating func endRun() { ResidentMap.append(run.pageCount, to: &payload) }

    private mutating func begin() {
      payload.removeAll(keepingCapacity: true)
      payload.appendLittleEndian(next)
      run = (0, false)
    }
  }

  /// Takes the frames of one map in their order.
  public struct Decoder: Sendable {
    private let totalPageCount: UInt64
    private var next: UInt64 = 0
    /// Whether the whole image has been told.
    public private(set) var isComplete = false

    /// A map of that image, of which nothing has come.
    public init(totalPageCount: PageCount) { self.totalPageCount = totalPageCount.rawValue }

    /// Takes one frame and tells its resident runs, as flat indices. After a throw the map is of no
    /// use: what came of it may already have been told.
    public mutating func take(
      _ payload: RawSpan, isLast: Bool, resident: (Range<Int>) -> Void
    ) throws(WireError) {
      try payload.expectBounds(of: .residentMap)
      let first: UInt64 = payload.loadLittleEndian(at: 0)
      guard first == next, !isComplete else {
        throw .value(.residentMap, .firstPage, found: first)
      }
      var position = WireLimits.residentMapFixedByteCount
      var isResident = false
      while position < payload.byteCount {
        let isFirst = position == WireLimits.residentMapFixedByteCount
        let count = try ResidentMap.runLength(in: payload, at: &position)
        guard count > 0 || isFirst, count <= totalPageCount - next else {
          throw .value(.residentMap, .runLength, found: count)
        }
        if isResident { resident(Int(next)..<Int(next + count)) }
        next += count
        isResident.toggle()
      }
      guard isLast == (next == totalPageCount) else {
        throw .value(.residentMap, .runLength, found: next)
      }
      isComplete = isLast
    }
  }

  private static func append(_ value: UInt64, to payload: inout [UInt8]) {
    var rest = value
    while rest >= 0x80 {
      payload.append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    payload.append(UInt8(rest))
  }

  private static func runLength(
    in payload: RawSpan, at position: inout Int
  ) throws(WireError) -> UInt64 {
    var value: UInt64 = 0
    for shift in 0..<maximumRunByteCount {
      guard position < payload.byteCount else { break }
      let byte: UInt8 = payload.loadLittleEndian(at: position)
      position += 1
      value |= UInt64(byte & 0x7f) << UInt64(7 * shift)
      if byte & 0x80 == 0 {
        // The shortest form only: one map has one encoding.
        guard byte != 0 || shift == 0 else { break }
        return value
      }
    }
    throw .value(.residentMap, .runLength, found: value)
  }
}
