internal import CLinux

/// Which accesses to a registered range become faults of ours.
@frozen
public struct RegistrationModes: OptionSet, Hashable, Sendable {
  /// The kernel's bits.
  public let rawValue: UInt64

  /// The modes of those bits.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Access to a page that is not there.
  public static let missing = Self(rawValue: uffd_register_mode_missing)
  /// Writing to a page that is write-protected.
  public static let writeProtect = Self(rawValue: uffd_register_mode_wp)
  /// Access to a page that is in the page cache but not mapped (shared memory and huge pages only).
  public static let minor = Self(rawValue: uffd_register_mode_minor)
}

/// What the kernel says can be done with a registered range.
@frozen
public struct RangeOperations: OptionSet, Hashable, Sendable {
  /// The kernel's bits: one for each request number.
  public let rawValue: UInt64

  /// The operations of those bits.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// `UserfaultHandle.wake`.
  public static let wake = Self(rawValue: uffd_range_wake)
  /// `UserfaultHandle.copy`.
  public static let copy = Self(rawValue: uffd_range_copy)
  /// `UserfaultHandle.zero`; never offered on huge pages.
  public static let zero = Self(rawValue: uffd_range_zeropage)
  /// `UserfaultHandle.move`.
  public static let move = Self(rawValue: uffd_range_move)
  /// `UserfaultHandle.writeProtect`.
  public static let writeProtect = Self(rawValue: uffd_range_writeprotect)
  /// `UserfaultHandle.mapCached`.
  public static let mapCached = Self(rawValue: uffd_range_continue)
  /// `UserfaultHandle.poison`.
  public static let poison = Self(rawValue: uffd_range_poison)
}
