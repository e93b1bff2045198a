public import Pages

/// Bounds on what a peer may send. Each is checked before anything is allocated.
public enum WireLimits {
  /// This version of the protocol. A peer of another version is refused in the handshake.
  public static let version: UInt16 = 1
  /// The fixed header's size.
  public static let headerByteCount = 32
  /// Largest payload of a page frame: one 2 MiB page. Runs of 4 KiB pages stay at or below
  /// `maximumRunByteCount`.
  public static let maximumPagePayloadByteCount = 2_097_152
  /// Largest run of 4 KiB pages in one frame: a demanded page never waits behind more than this on
  /// the same CPU.
  public static let maximumRunByteCount = 65_536
  /// The smallest page that can be sent.
  public static let smallestPageByteCount = 4096
  /// Pages that one frame may name: sixteen small ones. The frame codec checks this bound without
  /// the image, `maximumRunPageCount(of:)` the one of the region's page size.
  public static let maximumRunPageCount = maximumRunByteCount / smallestPageByteCount
  /// Pages in one region: the header names them by 32 bits (16 TiB of 4 KiB pages).
  public static let maximumRegionPageCount: UInt64 = 1 << 32
  /// Largest payload of any other frame (hello with 1024 regions, maps, device state pieces).
  public static let maximumControlPayloadByteCount = 65_536
  /// Device state of one VM, all pieces together; QEMU needs 0.3 MB, a VM with a large GPU more.
  public static let maximumDeviceStateByteCount = 268_435_456
  /// Bulk connections of one session.
  public static let maximumBulkConnectionCount = 16
  /// Bytes of a VM's name, in UTF-8.
  public static let maximumNameByteCount = 255
  /// Bytes of the names of what a host's processors can do; today's have some 2 KB.
  public static let maximumProcessorFeaturesByteCount = 16_384
  /// Bytes that a source sends at most for a measurement of the link.
  public static let maximumProbeByteCount: UInt64 = 1 << 30
  /// Bytes of a reason that is sent to the peer, in UTF-8.
  public static let maximumReasonByteCount = 1024
  /// Runs in one zero map frame (16 bytes each).
  public static let maximumZeroMapRunCount = 4096
  /// Pages of a whole image, all of them small: what a count of pages may say.
  public static let maximumImagePageCount =
    ImageLayout.maximumByteCount / UInt64(smallestPageByteCount)
  /// Largest epoch: a session adds two or three, and no peer may bring us near an overflow.
  public static let maximumEpoch: UInt64 = 1 << 48
  /// Longest time that a peer may claim, 146 years: sums of it cannot overflow.
  public static let maximumNanoseconds: UInt64 = 1 << 62
  /// Largest cumulative credit, far above any image, sums of it cannot overflow.
  public static let maximumCreditByteCount: UInt64 = 1 << 62
  /// Bytes of one entry of a zero map.
  public static let zeroMapEntryByteCount = 16
  /// Bytes of a resident map frame before its runs.
  public static let residentMapFixedByteCount = 8
  /// Largest payload of a resident map frame: some ten thousand runs, and a quarter of what the
  /// source has to hold to take frames on a bulk connection.
  public static let maximumResidentMapPayloadByteCount = 16_384
  /// Bytes of packed pages before what the encoding has made.
  public static let packedPrefixByteCount = 8
  /// Bytes of a hello that are the same in all versions: magic and version.
  public static let helloPrefixByteCount = 10
  /// Bytes of a hello before the VM's name.
  public static let helloFixedByteCount = 72
  /// Bytes of a welcome before the regions.
  public static let welcomeFixedByteCount = 32
  /// Bytes of one region in hello and welcome.
  public static let regionByteCount = 24

  /// Pages of that size that one frame may name: 64 KiB of small ones, or one huge page.
  @inlinable
  public static func maximumRunPageCount(of size: PageSize) -> PageCount {
    switch size {
    case .small: PageCount(rawValue: UInt64(maximumRunPageCount))
    case .huge: PageCount(rawValue: 1)
    }
  }
}
