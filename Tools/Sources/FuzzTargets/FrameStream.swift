import Codec
import Pages
import Wire

/// Input: a byte that chooses the gate (bits 0 to 2) and whether checksums are put right (bit 7
/// clear), then frames one behind the other.
enum FrameStream {
  static func run(_ input: [UInt8]) {
    var reader = InputReader(input)
    let setting = reader.byte()
    var stream = reader.rest()
    if setting & 0x80 == 0 { Checksums.mend(&stream) }
    let gate = gates[Int(setting & 7) % gates.count]
    while !stream.isEmpty {
      guard let header = agreed(gate, stream) else { return }
      check(header, in: stream, gate)
      stream.removeFirst(header.frameByteCount)
    }
  }

  /// Both handshakes, then every connection of both sides.
  static let gates: [FrameGate] =
    Peer.allCases.map { .handshake(from: $0) }
    + Peer.allCases.flatMap { sender in
      [ConnectionRole.urgent, .bulk].map { role in
        .session(from: sender, on: role, session: Given.session, layout: Given.layout)
      }
    }
    + Peer.allCases.map {
      .session(from: $0, on: .check, session: Given.session, layout: Given.layout)
    }

  private enum Verdict: Equatable {
    case needsBytes(Int)
    case frame(FrameHeader)
    /// A stranger's first bytes are more, the more has come: the rest of the error must be equal.
    case stranger
    case error(WireError)
  }

  private static func verdict(_ gate: FrameGate, _ stream: [UInt8], first count: Int) -> Verdict {
    do throws(WireError) {
      switch try gate.next(in: stream.rawBytes.extracting(first: count)) {
      case .needsBytes(let needed):
        invariant(needed > count, "a gate asks for more than there is")
        invariant(
          needed <= WireLimits.headerByteCount + WireLimits.maximumPagePayloadByteCount,
          "a gate asks for no more than the largest frame")
        return .needsBytes(needed)
      case .frame(let header):
        invariant(header.frameByteCount <= count, "a frame is whole before it is handed out")
        return .frame(header)
      }
    } catch .notOurProtocol(let bytes) {
      invariant(bytes.count <= 8, "a stranger's bytes are kept in bounds")
      return .stranger
    } catch { return .error(error) }
  }

  /// The first frame, if there is one: the same whether its bytes come all at once, as the gate
  /// asks for them, or one by one.
  private static func agreed(_ gate: FrameGate, _ stream: [UInt8]) -> FrameHeader? {
    let whole = verdict(gate, stream, first: stream.count)
    var asked = 0
    var step = verdict(gate, stream, first: 0)
    while case .needsBytes(let needed) = step, needed <= stream.count {
      asked = needed
      step = verdict(gate, stream, first: asked)
    }
    // A receiver that waits for what was asked may hear nothing more, where a stranger was told.
    if case .needsBytes = step {
    } else {
      invariant(step == whole, "a frame is judged the same as its pieces come")
    }
    // Byte by byte through the header; behind it only the last byte can change anything.
    for count in Set(0...min(stream.count, 40)).union([max(0, asked - 1), asked]).sorted() {
      switch verdict(gate, stream, first: count) {
      case .needsBytes: continue
      case let early: invariant(early == whole, "an early verdict stands")
      }
    }
    if case .frame(let header) = whole { return header }
    return nil
  }

  private static func check(_ header: FrameHeader, in stream: [UInt8], _ gate: FrameGate) {
    var encoded: [UInt8] = []
    header.appendEncoded(to: &encoded)
    invariant(
      encoded == Array(stream[..<WireLimits.headerByteCount]), "a header encodes as it came")
    do throws(WireError) {
      let again = try gate.admit(stream.rawBytes)
      invariant(again == header, "admitting alone gives the same header")
    } catch { invariantBroken("what is a whole frame is admitted") }
    if header.type.namesPages {
      invariant(Given.layout.contains(header.run), "a frame names pages of the image alone")
      let count = Given.layout.flatRange(of: header.run).count
      invariant(count <= WireLimits.maximumRunPageCount, "a frame names a bounded run")
    }
    let payload = Array(stream[WireLimits.headerByteCount..<header.frameByteCount])
    if let again = Payloads.encodedAgain(payload, of: header) {
      invariant(
        Array(again[WireLimits.headerByteCount...]) == payload, "a payload encodes as it came")
    }
  }
}

/// Puts the checksums of frames right, so that what lies behind them is reached.
enum Checksums {
  static func mend(_ stream: inout [UInt8]) {
    var start = 0
    while stream.count - start >= WireLimits.headerByteCount {
      let payloadStart = start + WireLimits.headerByteCount
      let count = Int(stream.rawBytes.loadLittleEndian(at: start + 16, as: UInt32.self))
      let isWhole = count <= stream.count - payloadStart
      if isWhole, stream[start + 1] & FrameFlags.hasPayloadChecksum.rawValue != 0 {
        store(
          checksum(of: stream, payloadStart..<payloadStart + count), in: &stream, at: start + 24)
      }
      store(checksum(of: stream, start..<start + 28), in: &stream, at: start + 28)
      guard isWhole else { return }
      start = payloadStart + count
    }
  }

  static func checksum(of stream: [UInt8], _ range: Range<Int>) -> UInt32 {
    CRC32C.checksum(of: stream.rawBytes.extracting(range))
  }

  static func store(_ checksum: UInt32, in stream: inout [UInt8], at offset: Int) {
    stream.withMutableRawBytes { $0.storeLittleEndian(checksum, at: offset) }
  }
}
