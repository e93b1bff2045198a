import Codec
import Pages
import Wire

/// Every payload decoder behind its frame type.
enum Payloads {
  /// The frame that the decoded payload gives again; nil when it is refused, or is mere bytes.
  static func encodedAgain(_ payload: [UInt8], of header: FrameHeader) -> [UInt8]? {
    let bytes = payload.rawBytes
    do throws(WireError) {
      switch header.type {
      case .hello: return try Hello(decoding: bytes).encodedFrame()
      case .welcome: return try Welcome(decoding: bytes).encodedFrame()
      case .refuse: return try Refusal(decoding: bytes).encodedFrame(session: header.session)
      case .credit:
        return Credit.encodedFrame(
          total: try Credit.total(in: bytes), session: header.session)
      case .zeroMap: return try zeroMap(payload, session: header.session)
      case .request, .pages, .zeroPages, .poisonedPages, .pushFinished, .deviceState: return nil
      default:
        guard header.type.isControlMessage else { return nil }
        let message = try ControlMessage(decoding: bytes, of: header.type)
        invariant(message.frameType == header.type, "a message keeps the type of its frame")
        return message.encodedFrame(session: header.session)
      }
    } catch {
      // Every refusal can be told to an operator and to the peer.
      let told = error.refusal.encodedFrame(session: header.session)
      invariant(
        told.count <= WireLimits.headerByteCount + 4 + WireLimits.maximumReasonByteCount,
        "a refusal keeps its bound")
      return nil
    }
  }

  private static func zeroMap(_ payload: [UInt8], session: UInt32) throws(WireError) -> [UInt8] {
    var runs: [PageRun] = []
    for position in 0..<(try ZeroMap.runCount(in: payload.rawBytes)) {
      let run = try ZeroMap.run(at: position, in: payload.rawBytes, of: Given.layout)
      let range = Given.layout.flatRange(of: run)
      invariant(
        range.upperBound <= Int(Given.layout.totalPageCount.rawValue),
        "a zero map names pages of the image alone")
      runs.append(run)
    }
    return ZeroMap.encodedFrame(runs[...], session: session)
  }
}
