internal import Codec
public import Pages

extension FrameHeader {
  /// The destination asks for pages that vCPUs wait for. Every answer repeats `sequence`.
  public static func request(_ run: PageRun, session: UInt32, sequence: UInt32) -> FrameHeader {
    FrameHeader(type: .request, session: session, run: run, sequence: sequence)
  }

  /// The source sends the bytes of `run`, which follow the header.
  ///
  /// `checksum` is nil where TLS vouches for the bytes.
  public static func pages(
    _ run: PageRun, pageSize: PageSize, isDemanded: Bool, session: UInt32, sequence: UInt32,
    checksum: UInt32?
  ) -> FrameHeader {
    var flags: FrameFlags = isDemanded ? .demanded : []
    if checksum != nil { flags.insert(.hasPayloadChecksum) }
    return FrameHeader(
      type: .pages, flags: flags, session: session, run: run,
      payloadByteCount: Int(run.count.byteCount(of: pageSize).rawValue), sequence: sequence,
      payloadChecksum: checksum ?? 0)
  }

  /// The same pages, not demanded ones, packed: so many bytes follow the header, as `PackedPages`
  /// says.
  public func packed(byteCount: Int, checksum: UInt32?) -> FrameHeader {
    var header = self
    header.flags = checksum == nil ? .packed : [.packed, .hasPayloadChecksum]
    header.payloadByteCount = byteCount
    header.payloadChecksum = checksum ?? 0
    return header
  }

  /// The source found nothing but zeros in `run`.
  public static func zeroPages(
    _ run: PageRun, isDemanded: Bool, session: UInt32, sequence: UInt32
  ) -> FrameHeader {
    FrameHeader(
      type: .zeroPages, flags: isDemanded ? .demanded : [], session: session, run: run,
      sequence: sequence)
  }

  /// The source's memory cannot be read at `run`, and never will be.
  public static func poisonedPages(
    _ run: PageRun, isDemanded: Bool, session: UInt32, sequence: UInt32
  ) -> FrameHeader {
    FrameHeader(
      type: .poisonedPages, flags: isDemanded ? .demanded : [], session: session, run: run,
      sequence: sequence)
  }

  /// The source sends the bytes of `run` while its VM runs; as `pages` otherwise.
  public static func seedPages(
    _ run: PageRun, pageSize: PageSize, session: UInt32, sequence: UInt32, checksum: UInt32?
  ) -> FrameHeader {
    var header = pages(
      run, pageSize: pageSize, isDemanded: false, session: session, sequence: sequence,
      checksum: checksum)
    header.type = .seedPages
    return header
  }

  /// The source found nothing but zeros in `run`, while its VM runs.
  public static func seedZeros(
    _ run: PageRun, session: UInt32, sequence: UInt32
  ) -> FrameHeader {
    FrameHeader(type: .seedZeros, session: session, run: run, sequence: sequence)
  }

  /// The source has pushed everything once on this connection.
  public static func pushFinished(session: UInt32) -> FrameHeader {
    FrameHeader(type: .pushFinished, session: session)
  }

  /// A frame with a payload that is not pages, checksummed: device state for one.
  public static func payload(
    _ type: FrameType, isLast: Bool = false, session: UInt32, _ payload: RawSpan
  ) -> FrameHeader {
    var flags: FrameFlags = .hasPayloadChecksum
    if isLast { flags.insert(.last) }
    return FrameHeader(
      type: type, flags: flags, session: session, payloadByteCount: payload.byteCount,
      payloadChecksum: CRC32C.checksum(of: payload))
  }
}
