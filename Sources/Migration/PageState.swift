/// What the destination knows about one page. The raw values stand in the page-state file, one byte
/// a page, and outlive our processes: never renumber them.
@frozen
public enum PageState: UInt8, CaseIterable, Hashable, Sendable {
  /// Not here, and nobody has asked for it.
  case missing = 0
  /// Not here; a vCPU waits, and the source has been asked.
  case requested = 1
  /// Installed by us (or shown to be there by EEXIST).
  case present = 2
  /// Reads as zeros at the source and is not installed: a fault is answered with ZEROPAGE.
  case zero = 3
  /// Given back by the guest since the switch: reads as zeros, the source's content is void.
  case removed = 4
  /// The source's memory was poisoned here, and POISON is installed.
  case poisoned = 5
  /// Seeded before the freeze and still right: its content lies in this process, to be installed
  /// from there. It does not outlive the process; then the page is missing.
  case staged = 6

  /// How many states there are.
  @inlinable
  public static var count: Int { 7 }

  /// Whether the source's content is still wanted: only these pages may be filled with what the
  /// source sends.
  @inlinable
  public var isAwaited: Bool { self == .missing || self == .requested }

  /// Whether the page is settled even if our process ends now.
  @inlinable
  public var isSettled: Bool { !isAwaited && self != .staged }
}

/// What kind of memory a region is: it decides what a REMOVE event means.
@frozen
public enum MemoryKind: UInt8, Hashable, Sendable {
  /// Private anonymous (or private hugetlb) memory: MADV_DONTNEED drops the content, zeros follow.
  case privateAnonymous
  /// Shared memory (memfd, tmpfs, shared hugetlb): MADV_DONTNEED raises the same event but the
  /// content stays in the file, so a page that was never installed stays the source's page.
  case shared
}

/// Where the bytes of the page states are: a mapped file in the daemon, an array in the simulation.
///
/// The ledger is its only writer. An implementation does no more than load and store one byte.
public protocol PageStateStore: ~Copyable {
  /// How many pages it holds states for.
  var pageCount: Int { get }
  /// The byte of the page at a flat index below `pageCount`.
  func load(_ flatIndex: Int) -> UInt8
  /// Replaces the byte of the page at a flat index below `pageCount`.
  mutating func store(_ byte: UInt8, at flatIndex: Int)
}

/// Page states in memory of our own, for the simulation and for tests.
@frozen
public struct PageStateArray: PageStateStore, Sendable {
  @usableFromInline var storage: [UInt8]

  /// `pageCount` missing pages.
  @inlinable
  public init(pageCount: Int) {
    storage = [UInt8](repeating: PageState.missing.rawValue, count: pageCount)
  }

  /// The states that those bytes record.
  @inlinable
  public init(bytes: [UInt8]) { storage = bytes }

  /// The bytes, by flat index.
  @inlinable
  public var bytes: [UInt8] { storage }

  /// How many pages it holds states for.
  @inlinable
  public var pageCount: Int { storage.count }

  /// The byte of one page.
  @inlinable
  public func load(_ flatIndex: Int) -> UInt8 { storage[flatIndex] }

  /// Replaces the byte of one page.
  @inlinable
  public mutating func store(_ byte: UInt8, at flatIndex: Int) { storage[flatIndex] = byte }
}
