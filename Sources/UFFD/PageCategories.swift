internal import CLinux

/// What a process's page tables say about a page.
@frozen
public struct PageCategories: OptionSet, Hashable, Sendable {
  /// The kernel's bits.
  public let rawValue: UInt64

  /// The categories of those bits.
  @inlinable
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// It belongs to a mapping that is registered with an asynchronously write-protecting
  /// userfaultfd.
  public static let isTracked = Self(rawValue: pagemap_page_is_wpallowed)
  /// It is not write-protected: written, or dropped, since it last was.
  public static let isWritten = Self(rawValue: pagemap_page_is_written)
  /// It comes from a file or from shared memory.
  public static let isFile = Self(rawValue: pagemap_page_is_file)
  /// It is mapped.
  public static let isPresent = Self(rawValue: pagemap_page_is_present)
  /// Its entry holds something else than a page: a place in swap, or a mark such as protection.
  public static let isSwapped = Self(rawValue: pagemap_page_is_swapped)
  /// It is the kernel's shared page of zeros.
  public static let isZeroPage = Self(rawValue: pagemap_page_is_pfnzero)
  /// It is part of a huge page, transparent or not.
  public static let isHuge = Self(rawValue: pagemap_page_is_huge)
}
