import Codec
import Pages
import System
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
      case .zeroMap: return try runMap(.zero, payload, header)
      case .discardMap: return try runMap(.discard, payload, header)
      case .seedRound:
        return SeedRound.endFrame(
          try SeedRound.number(in: bytes, of: header.type), session: header.session)
      case .seedRoundApplied:
        return SeedRound.appliedFrame(
          try SeedRound.number(in: bytes, of: header.type), session: header.session)
      case .residentMap: return try residentMap(payload, header)
      case .pages, .seedPages:
        if header.flags.contains(.packed) { try unpack(payload, header) }
        return nil
      case .request, .zeroPages, .poisonedPages, .pushFinished, .deviceState, .filler,
        .seedZeros:
        return nil
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

  /// As a destination does; nothing is written behind the pages.
  private static func unpack(_ payload: [UInt8], _ header: FrameHeader) throws(WireError) {
    let prefix = try PackedPages(decoding: payload.rawBytes, of: header.type)
    guard let region = Given.layout.region(header.run.region) else {
      invariantBroken("a frame that was admitted is about pages of the image")
    }
    let count = Int(header.run.count.byteCount(of: region.pageSize).rawValue)
    guard var room = try? PageBuffer(byteCount: count + 64) else { return }
    var pages = room.mutableBytes(0..<count)
    var unpacker = PageUnpacker()
    let isWhole = unpacker.unpack(
      Array(payload[WireLimits.packedPrefixByteCount...]).rawBytes, as: prefix.encoding,
      into: &pages)
    invariant(
      ZeroScan.isZero(room.bytes(count..<count + 64)), "pages are unpacked into their room")
    guard isWhole else { return }
    // Against zeros a delta is the pages themselves.
    try prefix.verify(room.bytes(0..<count), of: header.type)
  }

  /// A map in one frame has one encoding; of a piece only the runs are looked at.
  private static func residentMap(
    _ payload: [UInt8], _ header: FrameHeader
  ) throws(WireError) -> [UInt8]? {
    let total = Int(Given.layout.totalPageCount.rawValue)
    var decoder = ResidentMap.Decoder(totalPageCount: Given.layout.totalPageCount)
    var runs: [Range<Int>] = []
    try decoder.take(payload.rawBytes, isLast: header.flags.contains(.last)) { runs.append($0) }
    for (run, next) in zip(runs, runs.dropFirst() + [total..<total]) {
      invariant(!run.isEmpty && run.upperBound <= next.lowerBound, "resident runs stand in order")
    }
    guard decoder.isComplete else { return nil }
    var encoder = ResidentMap.Encoder(session: header.session)
    var position = 0
    for run in runs {
      if position < run.lowerBound {
        encoder.append(pageCount: run.lowerBound - position, isResident: false)
      }
      encoder.append(pageCount: run.count, isResident: true)
      position = run.upperBound
    }
    if position < total { encoder.append(pageCount: total - position, isResident: false) }
    return encoder.takeFrame(isLast: true)
  }

  private static func runMap(
    _ map: RunMap, _ payload: [UInt8], _ header: FrameHeader
  ) throws(WireError) -> [UInt8] {
    var runs: [PageRun] = []
    for position in 0..<(try map.runCount(in: payload.rawBytes)) {
      let run = try map.run(at: position, in: payload.rawBytes, of: Given.layout)
      let range = Given.layout.flatRange(of: run)
      invariant(
        range.upperBound <= Int(Given.layout.totalPageCount.rawValue),
        "a map names pages of the image alone")
      runs.append(run)
    }
    return map.encodedFrame(
      runs[...], isLast: header.flags.contains(.last), session: header.session)
  }
}
