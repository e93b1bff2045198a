internal import Codec
internal import Pages

// What several payload decoders check, each in one place.

extension RawSpan {
  /// An epoch that leaves room to count on: no peer can make us overflow.
  func epoch(at offset: Int, of type: FrameType) throws(WireError) -> Epoch {
    let found: UInt64 = loadLittleEndian(at: offset)
    guard found <= WireLimits.maximumEpoch else { throw .value(type, .epoch, found: found) }
    return Epoch(rawValue: found)
  }

  /// Checks that the payload has the size that its type, or its own counts, demand.
  func expectByteCount(_ expected: Int, of type: FrameType) throws(WireError) {
    guard byteCount == expected else {
      throw .payloadMismatch(type, found: byteCount, expected: expected)
    }
  }

  /// Checks the bounds of the type before the first field is read.
  func expectBounds(of type: FrameType) throws(WireError) {
    // Of pages only the header tells how long they are.
    let allowed = type.payloadByteCounts([])
    guard allowed.contains(byteCount) else {
      throw .payloadByteCount(type, found: byteCount, allowed: allowed)
    }
  }
}

/// The list of regions in hello and welcome: 24 bytes each, image offset u64, byte count u64,
/// page size u32, reserved u32.
enum RegionList {
  /// Reads `count` regions that fill the rest of the payload from `offset` on.
  static func decode(
    count: Int, from payload: RawSpan, at offset: Int, of type: FrameType
  ) throws(WireError) -> [Region] {
    guard count <= ImageLayout.maximumRegionCount else {
      throw .value(type, .regionCount, found: UInt64(count))
    }
    try payload.expectByteCount(offset + count * WireLimits.regionByteCount, of: type)
    var regions: [Region] = []
    regions.reserveCapacity(count)
    for position in 0..<count {
      let start = offset + position * WireLimits.regionByteCount
      let pageByteCount: UInt32 = payload.loadLittleEndian(at: start + 16)
      guard let pageSize = PageSize(rawValue: pageByteCount) else {
        throw .pageSize(RegionIndex(position), byteCount: pageByteCount)
      }
      guard payload.loadLittleEndian(at: start + 20, as: UInt32.self) == 0 else {
        throw .notZero(type, .reserved)
      }
      let region = Region(
        index: RegionIndex(position),
        imageOffset: ByteCount(rawValue: payload.loadLittleEndian(at: start)),
        byteCount: ByteCount(rawValue: payload.loadLittleEndian(at: start + 8)),
        pageSize: pageSize)
      guard region.pageCount.rawValue <= WireLimits.maximumRegionPageCount else {
        throw .regionTooLarge(region.index, region.pageCount)
      }
      regions.append(region)
    }
    return regions
  }

  /// Appends all regions.
  static func append(_ regions: [Region], to payload: inout [UInt8]) {
    invariant(
      regions.count <= ImageLayout.maximumRegionCount, "an image keeps its bound on regions")
    for region in regions {
      payload.appendLittleEndian(region.imageOffset.rawValue)
      payload.appendLittleEndian(region.byteCount.rawValue)
      payload.appendLittleEndian(region.pageSize.rawValue)
      payload.appendLittleEndian(UInt32(0))
    }
  }
}

/// Builds frames that are rare enough to live in an array of their own.
enum FrameBuilder {
  /// Appends header and payload, with the payload's checksum.
  static func append(
    _ type: FrameType, isLast: Bool = false, session: UInt32, payload: [UInt8],
    to bytes: inout [UInt8]
  ) {
    FrameHeader.payload(type, isLast: isLast, session: session, payload.rawBytes)
      .appendEncoded(to: &bytes)
    bytes.append(contentsOf: payload)
  }
}
