internal import Pages
internal import Uring
internal import Wire

/// The bytes that come in on the urgent connection: the second part of the ring's memory. Under TLS
/// they come into the third part, and are opened from there.
struct UrgentInbound {
  /// Room for many answers of small pages at once, little enough to stay in the cache.
  private static let smallByteCount = 262_144

  /// Where the room starts in the ring's memory, and how much there is.
  private let base = RequestOutbox.byteCount
  private let byteCount: Int
  /// What came and is not opened yet; empty without TLS.
  private var sealed = 0..<0
  private let gate: FrameGate
  private var start = 0
  private var end = 0
  /// Whether the ring may still write into our room: no other socket may take over before.
  private(set) var isReceiving = false
  /// The frame at `start`, once its header was judged.
  private var header: FrameHeader?

  init(plane: PlaneParts) {
    byteCount = Self.byteCount(for: plane.installer.layout)
    gate = plane.urgentGate
  }

  /// Room for sealed bytes: a page with its header in one receive, and more of the largest frames.
  static let sealedByteCount = 65_536

  /// Where that room starts.
  private var sealedBase: Int { base + byteCount }

  /// Two of the largest frames, so that one can be handled while the next comes.
  static func byteCount(for layout: ImageLayout) -> Int {
    let hasHugePages = layout.regions.contains { $0.pageSize == .huge }
    let largest =
      WireLimits.headerByteCount
      + (hasHugePages
        ? WireLimits.maximumPagePayloadByteCount : WireLimits.maximumControlPayloadByteCount)
    return max(2 * largest, smallByteCount)
  }

  mutating func queueReceive(_ ring: inout Ring, from connection: Connection) throws(RingError) {
    guard !isReceiving else { return }
    let room =
      connection.isSealed
      ? sealedBase..<sealedBase + Self.sealedByteCount : base + end..<base + byteCount
    try ring.receive(from: connection.rawDescriptor, into: room, tag: FaultLoop.Tag.urgent)
    isReceiving = true
  }

  mutating func noteReceived(_ count: Int, from connection: Connection) {
    isReceiving = false
    if connection.isSealed {
      sealed = sealedBase..<sealedBase + count
    } else {
      end += count
    }
  }

  /// The receive ended with nothing: the room is free.
  mutating func noteEnd() { isReceiving = false }

  /// Opens what came, as far as there is room; false when there is nothing more behind it: then the
  /// room for sealed bytes is free.
  mutating func open(
    _ ring: inout Ring, from connection: Connection
  ) throws(ConnectionError) -> Bool {
    let opened = try ring.open(sealed, into: base + end..<base + byteCount, of: connection)
    sealed = sealed.lowerBound + opened.sealedByteCount..<sealed.upperBound
    end += opened.byteCount
    invariant(
      opened.mayHaveMore || sealed.isEmpty, "a session that opens no more has taken all that came")
    invariant(opened.byteCount > 0 || !opened.mayHaveMore, "there is room to open more")
    return opened.mayHaveMore
  }

  /// The next whole frame; nil until there is one.
  mutating func nextFrame(_ ring: borrowing Ring) throws(ProtocolViolation) -> FrameHeader? {
    let available = end - start
    guard available >= WireLimits.headerByteCount else { return nil }
    do throws(WireError) {
      let header: FrameHeader
      if let judged = self.header {
        header = judged
      } else {
        header = try gate.admit(ring.bytes(base + start..<base + end))
        self.header = header
      }
      guard available >= header.frameByteCount else { return nil }
      try header.verify(payload: ring.bytes(payload(of: header)))
      return header
    } catch {
      throw .frame(error)
    }
  }

  /// Where the payload of the frame at the front lies in the ring's memory.
  func payload(of header: FrameHeader) -> Range<Int> {
    let first = base + start + WireLimits.headerByteCount
    return first..<first + header.payloadByteCount
  }

  mutating func drop(_ header: FrameHeader) {
    start += header.frameByteCount
    self.header = nil
  }

  /// Moves a frame that has come in part to the front when the rest would not fit behind it. Only
  /// while no receive is under way.
  mutating func makeRoom(_ ring: inout Ring) {
    if start == end {
      start = 0
      end = 0
      return
    }
    let frameByteCount = header?.frameByteCount ?? WireLimits.headerByteCount
    guard start + frameByteCount > byteCount || end == byteCount else { return }
    ring.move(base + start..<base + end, to: base)
    end -= start
    start = 0
  }
}
