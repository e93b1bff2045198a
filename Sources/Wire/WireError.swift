public import Pages

/// What a peer sent that the protocol does not allow. Every one ends the connection; none is a bug
/// of ours. Carries what was found, so that the report can say it.
public enum WireError: Error, Hashable, Sendable {
  /// The first bytes of a connection are not ours: some other program dialled. Carries up to eight
  /// of them.
  case notOurProtocol(firstBytes: [UInt8])
  /// The peer speaks another version.
  case version(found: UInt16)
  /// The header's checksum is wrong.
  case headerChecksum(found: UInt32, computed: UInt32)
  /// No frame has this number.
  case unknownType(UInt8)
  /// A flag that is unknown, or has no meaning in this type of frame. Carries the bits at fault.
  case flags(FrameType, UInt8)
  /// The payload's size is outside the type's bounds.
  case payloadByteCount(FrameType, found: Int, allowed: ClosedRange<Int>)
  /// The payload's size is not what the pages in the header, or the counts in the payload, demand.
  case payloadMismatch(FrameType, found: Int, expected: Int)
  /// The payload's checksum is wrong.
  case payloadChecksum(FrameType, found: UInt32, computed: UInt32)
  /// A field or a reserved byte that has to be zero is not.
  case notZero(FrameType, WireField)
  /// A field holds a value that has no meaning, or one outside its bounds.
  case value(FrameType, WireField, found: UInt64)
  /// A text is not UTF-8, or holds control characters that would garble a terminal or a log.
  case text(FrameType, WireField)
  /// This peer may not send such a frame on such a connection.
  case misplaced(FrameType, from: Peer, on: ConnectionRole)
  /// The header carries another session's short id.
  case foreignSession(found: UInt32, expected: UInt32)
  /// The image has no such pages.
  case unknownPages(FrameType, PageRun)
  /// A page size that cannot be migrated; 1 GiB for one.
  case pageSize(RegionIndex, byteCount: UInt32)
  /// A region has more pages than the header's 32 bits can name.
  case regionTooLarge(RegionIndex, PageCount)
}

/// The parts of frames that errors name.
public enum WireField: String, Hashable, Sendable {
  /// The header's region, page index, page count or sequence.
  case region, pageIndex, pageCount, sequence
  /// The header's payload checksum.
  case payloadChecksum
  /// Parts of hello and welcome.
  case magic, version, role, progress, mode, bulkConnectionCount, isHandedOff, regionCount
  /// What the source's processors can do, or its length.
  case processorFeatures
  /// Parts of control messages: the epoch, a time, what is to be done before the VM runs.
  case epoch, nanoseconds, fillsBeforeRun
  /// A run of pages in a resident map, or where its first one starts.
  case runLength, firstPage
  /// A cumulative grant.
  case credit
  /// The VM's name, or its length.
  case name
  /// The code of a refusal.
  case code
  /// A refusal's text, or its length.
  case reason
  /// How pages are packed, and their checksum once they are unpacked.
  case encoding, contentsChecksum
  /// Bytes that this version does not use.
  case reserved
}

extension WireError: CustomStringConvertible {
  /// One sentence for an operator.
  public var description: String {
    switch self {
    // A handshake record of TLS.
    case .notOurProtocol(let bytes) where bytes.starts(with: [22, 3]):
      "the peer speaks TLS, and this side was started with --insecure; start both sides with "
        + "--tls, or both with --insecure"
    case .notOurProtocol(let bytes):
      "the peer is not ours: its first bytes are \(Self.printable(bytes))"
    case .version(let found):
      "the peer speaks protocol version \(found), this program version \(WireLimits.version); "
        + "install the same release on both hosts"
    case .headerChecksum(let found, let computed):
      "a frame header's checksum is \(found), its bytes give \(computed)"
    case .unknownType(let number): "a frame of unknown type \(number)"
    case .flags(let type, let bits): "flags \(bits) have no meaning in a \(type) frame"
    case .payloadByteCount(let type, let found, let allowed):
      "a \(type) frame announces \(found) payload bytes; "
        + "\(allowed.lowerBound) to \(allowed.upperBound) are allowed"
    case .payloadMismatch(let type, let found, let expected):
      "a \(type) frame has \(found) payload bytes where its contents need \(expected)"
    case .payloadChecksum(let type, let found, let computed):
      "the payload checksum of a \(type) frame is \(found), its bytes give \(computed)"
    case .notZero(let type, let field): "\(field.rawValue) of a \(type) frame is not zero"
    case .value(let type, let field, let found):
      "\(field.rawValue) of a \(type) frame is \(found), which is not allowed"
    case .text(let type, let field):
      "\(field.rawValue) of a \(type) frame is not printable UTF-8"
    case .misplaced(let type, let sender, let role):
      "the \(sender) may not send \(type) on a connection for \(role) traffic"
    case .foreignSession(let found, let expected):
      "a frame of session \(found) on a connection of session \(expected)"
    case .unknownPages(let type, let run):
      "a \(type) frame names \(run.count.rawValue) pages from page \(run.start.rawValue) of region "
        + "\(run.region.rawValue), which the image does not have"
    case .pageSize(let region, let byteCount):
      "region \(region.rawValue) has pages of \(byteCount) bytes; 4096 and 2097152 are supported"
    case .regionTooLarge(let region, let count):
      "region \(region.rawValue) has \(count.rawValue) pages; "
        + "at most \(WireLimits.maximumRegionPageCount) can be named"
    }
  }

  /// What to tell the peer before closing.
  public var refusal: Refusal {
    let code: RefusalCode =
      switch self {
      case .version: .version
      case .pageSize, .regionTooLarge: .layout
      case .foreignSession: .session
      case .notOurProtocol, .headerChecksum, .unknownType, .flags, .payloadByteCount,
        .payloadMismatch, .payloadChecksum, .notZero, .value, .text, .misplaced, .unknownPages:
        .protocolViolation
      }
    return Refusal(code, description)
  }

  /// ASCII as it is, all else in hexadecimal: never lets a stranger write to our terminal.
  private static func printable(_ bytes: [UInt8]) -> String {
    if bytes.allSatisfy({ (0x20..<0x7f).contains($0) }) {
      return "'" + String(decoding: bytes, as: UTF8.self) + "'"
    }
    return bytes.map { byte in
      let digits = String(byte, radix: 16)
      return digits.count == 1 ? "0" + digits : digits
    }.joined(separator: " ")
  }
}
