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
  /// Largest payload of any other frame (hello with 1024 regions, maps, device state pieces).
  public static let maximumControlPayloadByteCount = 65_536
  /// Device state of one VM, all pieces together; QEMU needs 0.3 MB, a VM with a large GPU more.
  public static let maximumDeviceStateByteCount = 268_435_456
  /// Bulk connections of one session.
  public static let maximumBulkConnectionCount = 16
  /// Bytes of a VM's name, in UTF-8.
  public static let maximumNameByteCount = 255
  /// Bytes of a reason that is sent to the peer, in UTF-8.
  public static let maximumReasonByteCount = 1024
  /// Runs in one zero map frame (16 bytes each).
  public static let maximumZeroMapRunCount = 4096
}
