internal import CLinux
internal import Glibc
internal import Pages
public import System

/// A userfaultfd and the duty to keep it open: when its last duplicate is closed, the kernel
/// unregisters the ranges and **missing pages read as zeros**.
///
/// It is always non-blocking and close-on-exec. What it can do stands in `UserfaultHandle`.
public struct UserfaultDescriptor: ~Copyable, Sendable {
  private let descriptor: OwnedDescriptor
  /// What it was asked for when it was made, by us or by whoever sent it.
  public let features: UserfaultFeatures

  /// Makes a userfaultfd for this process's memory, with those features.
  ///
  /// - Parameters:
  ///   - required: without all of these it fails, and the error names those that are missing.
  ///   - optional: of these it takes what the kernel offers; `features` tells which.
  public init(
    requiring required: UserfaultFeatures, optionally optional: UserfaultFeatures = []
  ) throws(UFFDError) {
    let offered = try Self.offeredFeatures()
    let missing = required.subtracting(offered)
    guard missing.isEmpty else {
      throw UFFDError(.negotiate(missing: missing), errno: .notSupported)
    }
    let features = required.union(optional.intersection(offered))
    let descriptor = try Self.create()
    _ = try Self.shakeHands(descriptor, features)
    self.descriptor = descriptor
    self.features = features
  }

  /// Takes over a userfaultfd that somebody else made, and sets it non-blocking for everybody who
  /// has it. What is no userfaultfd, or has not shaken hands yet, is refused with EINVAL.
  public init(adopting descriptor: consuming OwnedDescriptor) throws(UFFDError) {
    let number = descriptor.rawValue
    let status = try UserfaultStatus(ofDescriptor: number)
    let flags = clinux_fcntl_int(number, F_GETFL, 0)
    guard flags >= 0, clinux_fcntl_int(number, F_SETFL, flags | O_NONBLOCK) >= 0 else {
      throw UFFDError(.adopt(descriptor: number), errno: .current)
    }
    self.descriptor = descriptor
    self.features = status.features
  }

  /// The use of it, to share among threads; valid while this owner lives.
  public var handle: UserfaultHandle { UserfaultHandle(borrowing: descriptor.rawValue) }

  /// A second descriptor of the same userfaultfd, for a parent or a worker to hold.
  public borrowing func duplicate() throws(UFFDError) -> OwnedDescriptor {
    do {
      return try descriptor.duplicate()
    } catch {
      throw UFFDError(.duplicate, errno: error.errno)
    }
  }

  /// How many faults wait, from the kernel's own books.
  public borrowing func status() throws(UFFDError) -> UserfaultStatus {
    try UserfaultStatus(ofDescriptor: descriptor.rawValue)
  }

  /// Gives the ownership away without closing.
  public consuming func release() -> OwnedDescriptor { descriptor }

  /// What this kernel offers, asked of a descriptor that is thrown away: a handshake cannot be
  /// repeated.
  public static func offeredFeatures() throws(UFFDError) -> UserfaultFeatures {
    try shakeHands(create(), [])
  }

  /// A descriptor that has not shaken hands: from the device, whose file mode can give access
  /// without privileges, else by the system call.
  private static func create() throws(UFFDError) -> OwnedDescriptor {
    let flags = O_CLOEXEC | O_NONBLOCK
    if let device = try? OwnedDescriptor.open("/dev/userfaultfd", flags: O_RDWR) {
      let number = ioctl(device.rawValue, uffd_request_new, flags)
      if number >= 0 { return OwnedDescriptor(adopting: number) }
    }
    let number = clinux_userfaultfd(flags)
    guard number >= 0 else { throw UFFDError(.create, errno: .current) }
    return OwnedDescriptor(adopting: number)
  }

  /// The handshake. Asks for `features`, answers all that the kernel offers.
  private static func shakeHands(
    _ descriptor: borrowing OwnedDescriptor, _ features: UserfaultFeatures
  ) throws(UFFDError) -> UserfaultFeatures {
    var argument = uffd_abi_api(api: uffd_api_version, features: features.rawValue, ioctls: 0)
    let handle = UserfaultHandle(borrowing: descriptor.rawValue)
    let errno = handle.control(uffd_request_api, &argument)
    guard errno == 0 else {
      throw UFFDError(.negotiate(missing: []), errno: Errno(rawValue: errno))
    }
    return UserfaultFeatures(rawValue: argument.features)
  }
}
